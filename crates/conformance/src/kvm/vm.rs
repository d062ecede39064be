//! A VM of `/dev/kvm`.

#![allow(unsafe_code, reason = "passes the memslot's promise on, hands out a bad address, and forks")]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_kvm::{System, Vm};

use super::arch::{self, Guest};
use super::signals::Storm;
use super::vcpu::KvmVcpu;
use crate::fork::{ChildEnd, ask_child};
use crate::target::{Dest, Source, TestDevice, TestVcpu, TestVm};
use crate::verdict::{Tried, Unsupported};

/// An address that no process of Linux has mapped.
const BAD_ADDRESS: usize = 0;

/// The VM and the memory its guest code is in; the VM goes first.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) system: System,
    pub(super) vm: Vm,
    pub(super) guest: OnceLock<Guest>,
}

#[derive(Debug)]
pub(super) struct KvmVm {
    shared: Arc<Shared>,
}

impl KvmVm {
    pub(super) fn new(system: &System, vm: Vm) -> Self {
        Self { shared: Arc::new(Shared { system: system.clone(), vm, guest: OnceLock::new() }) }
    }
}

impl TestVm for KvmVm {
    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.shared.vm.check_extension(cap)
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.shared.vm.enable_cap(cap)
    }

    unsafe fn set_region(&self, region: &MemoryRegion) -> Result<(), Errno> {
        // SAFETY: what this function asks of its caller is what that one asks.
        unsafe { self.shared.vm.set_user_memory_region(region) }
    }

    fn get_dirty_log(&self, slot: SlotId, dest: Dest<'_>) -> Result<(), Errno> {
        match dest {
            Dest::Words(words) => self.shared.vm.get_dirty_log(slot, words),
            // SAFETY: nothing is mapped there.
            Dest::Bad => unsafe { self.shared.vm.get_dirty_log_at(slot, BAD_ADDRESS) },
        }
    }

    fn clear_dirty_log(&self, slot: SlotId, first: u64, num: u32, source: Source<'_>) -> Result<(), Errno> {
        match source {
            Source::Words(words) => self.shared.vm.clear_dirty_log(slot, first, num, words),
            Source::Bad => self.shared.vm.clear_dirty_log_at(slot, first, num, BAD_ADDRESS),
        }
    }

    fn reset(&self, arg: u64) -> Result<u32, Errno> {
        self.shared.vm.reset_dirty_rings_with(arg)
    }

    fn reset_amid_signals(&self, every: Duration) -> Tried<u32> {
        let storm = Storm::start(every).map_err(|error| Unsupported(format!("no timer: {error}")))?;
        let answer = self.shared.vm.reset_dirty_rings();
        drop(storm);
        Ok(answer)
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn TestVcpu>, Errno> {
        let vcpu = self.shared.vm.create_vcpu(id)?;
        Ok(Box::new(KvmVcpu::new(vcpu, Arc::clone(&self.shared))?))
    }

    fn in_forked_child(&self) -> Tried<()> {
        let question = || {
            let first = self.shared.vm.check_extension(0).map(drop);
            first.and_then(|()| self.shared.vm.reset_dirty_rings().map(drop)).map_or_else(Errno::raw, |()| 0)
        };
        // SAFETY: both calls are one ioctl each, without a lock or an allocation.
        match unsafe { ask_child(question) } {
            Ok(ChildEnd::Code(0)) => Ok(Ok(())),
            Ok(ChildEnd::Code(raw)) => Ok(Err(Errno::from_raw(raw))),
            Ok(ChildEnd::Signal(signal)) => Err(Unsupported(format!("the child died by signal {signal}"))),
            Err(error) => Err(Unsupported(format!("no child process: {error}"))),
        }
    }

    fn create_device(&self, kind: u32) -> Tried<Box<dyn TestDevice>> {
        arch::create_device(&self.shared.vm, kind)
    }

    fn signal_msi(&self, address: u64, device: u32, event: u32) -> Tried<u32> {
        arch::signal_msi(&self.shared.vm, address, device, event)
    }
}
