//! Which vCPU the current thread has loaded.

use std::{cell::RefCell, sync::Arc};

use super::VcpuShared;

thread_local! {
    static LOADED: RefCell<Option<Arc<VcpuShared>>> = const { RefCell::new(None) };
}

/// `vcpu_load` to `vcpu_put`: while it lives, [`current`] on this thread is the vCPU.
#[derive(Debug)]
pub(super) struct Loaded {
    before: Option<Arc<VcpuShared>>,
}

impl Loaded {
    pub(super) fn new(vcpu: &Arc<VcpuShared>) -> Self {
        Self { before: LOADED.with(|loaded| loaded.borrow_mut().replace(Arc::clone(vcpu))) }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let before = self.before.take();
        LOADED.with(|loaded| *loaded.borrow_mut() = before);
    }
}

/// `kvm_get_running_vcpu`: the vCPU that this thread has inside an ioctl, of whichever VM.
pub(crate) fn current() -> Option<Arc<VcpuShared>> {
    LOADED.with(|loaded| loaded.borrow().clone())
}
