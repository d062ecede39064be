//! The mutex every vCPU ioctl holds.

use std::sync::{Arc, Condvar, Mutex};

use super::VcpuShared;
use crate::sync::lock;

/// `vcpu->mutex`: taken without a guard, because a run in progress is a value of its own.
#[derive(Debug, Default)]
pub(crate) struct IoctlLock {
    taken: Mutex<bool>,
    freed: Condvar,
}

impl IoctlLock {
    pub(super) fn lock(&self) {
        let mut taken = lock(&self.taken);
        while *taken {
            taken = self.freed.wait(taken).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *taken = true;
    }

    fn try_lock(&self) -> bool {
        let mut taken = lock(&self.taken);
        !std::mem::replace(&mut *taken, true)
    }

    pub(super) fn unlock(&self) {
        *lock(&self.taken) = false;
        self.freed.notify_one();
    }
}

/// Every vCPU of a VM held outside its ioctls (`kvm_trylock_all_vcpus`); dropping it lets them in again.
#[derive(Debug)]
pub(crate) struct VcpusHeld {
    held: Vec<Arc<VcpuShared>>,
}

impl VcpusHeld {
    /// All of `vcpus`, or `None` if one of them is inside an ioctl.
    pub(crate) fn try_new(vcpus: &[Arc<VcpuShared>]) -> Option<Self> {
        let mut all = Self { held: Vec::with_capacity(vcpus.len()) };
        for vcpu in vcpus {
            if !vcpu.ioctl.try_lock() {
                return None;
            }
            all.held.push(Arc::clone(vcpu));
        }
        Some(all)
    }
}

impl Drop for VcpusHeld {
    fn drop(&mut self) {
        for vcpu in &self.held {
            vcpu.ioctl.unlock();
        }
    }
}
