//! Taking a vCPU out of the guest from another thread.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use ringmark_abi::Errno;

use crate::run_page::RunPage;
use crate::signal;

/// Takes its vCPU out of `KVM_RUN`, from any thread and at any time.
///
/// A kick makes a [`Vcpu::run`](crate::Vcpu::run) return [`Exit::Interrupted`](crate::Exit::Interrupted): the one
/// that is under way, else the next one. Several kicks before that make one. The order is always *tell, then kick*:
/// store what the vCPU's thread is to find, kick, and let the thread look after every `Interrupted`.
///
/// # Why none is lost
/// A kick sets `immediate_exit` in the run structure and then, if a thread has announced itself there, sends it a
/// signal. The vCPU's thread announces itself and then enters `KVM_RUN`, where the kernel looks at `immediate_exit`
/// before it looks at signals. There are three places the thread can be at when the flag is set:
///
/// * *before the kernel has looked*: it will see the flag and return `EINTR`, signal or not;
/// * *past that look*: the thread had announced itself before, and a full fence on either side (store flag, read
///   announcement here; store announcement, read flag there) makes one of the two see the other. The signal is sent.
///   It is delivered or left pending; the kernel tests for a pending signal with interrupts off before it enters the
///   guest, and one that is sent later leaves it by an interrupt of its processor. `KVM_RUN` returns `EINTR`;
/// * *outside `KVM_RUN`*: the flag stays set until the next `run`.
///
/// `run` clears the flag only when it returns `Interrupted`, and with an operation that sees every kick it clears,
/// so that whatever was told before the kick is visible to the thread that looks after it.
///
/// A kick holds the vCPU's run structure, and with it the VM, alive.
#[derive(Clone, Debug)]
pub struct Kick {
    page: Arc<RunPage>,
}

impl Kick {
    pub(crate) fn new(page: Arc<RunPage>) -> Self {
        Self { page }
    }

    /// Takes the vCPU out of the guest.
    ///
    /// It does not wait: the vCPU is out when its `run` has returned, and only the vCPU's thread can say so.
    ///
    /// # Errors
    /// `EAGAIN` when the user's queue of pending signals is full (`RLIMIT_SIGPENDING`): the next `run` will return
    /// `Interrupted`, but one that is under way may go on; kick again.
    pub fn kick(&self) -> Result<(), Errno> {
        self.page.request();
        fence(Ordering::SeqCst);
        match self.page.runner() {
            0 => Ok(()),
            thread => signal::send(thread),
        }
    }
}
