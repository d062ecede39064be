//! Getting a vCPU out of the guest from another thread.

use std::{fmt, sync::Arc};

use super::VcpuShared;

/// A handle that makes a vCPU leave the guest: `immediate_exit` and a signal, in one.
///
/// The vCPU ends its current `KVM_RUN` with [`Exit::Interrupted`](crate::Exit::Interrupted), flushing the
/// page-modification log on the way, and every later one at once, until its own thread calls
/// [`Vcpu::clear_immediate_exit`](crate::Vcpu::clear_immediate_exit). The kick does not wait: only the return of the
/// run says that everything is logged.
#[derive(Clone)]
pub struct Kick {
    pub(super) vcpu: Arc<VcpuShared>,
}

impl Kick {
    /// Sets `immediate_exit` and sends the signal.
    pub fn kick(&self) {
        self.vcpu.requests.kick();
    }

    /// Sends the signal alone: one `KVM_RUN`, the present or the next, ends with `EINTR`.
    pub fn signal(&self) {
        self.vcpu.requests.signal();
    }
}

impl fmt::Debug for Kick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kick").field("vcpu", &self.vcpu.id).finish()
    }
}
