//! A VM of the engine.

#![allow(unsafe_code, reason = "passes the memslot's promise on, and forks")]

use std::time::Duration;

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_engine::Vm;
use ringmark_engine::gic::{Device, Msi};

use super::vcpu::EngineVcpu;
use crate::fork::{ChildEnd, ask_child};
use crate::target::{Dest, Source, TestDevice, TestVcpu, TestVm};
use crate::verdict::{Tried, Unsupported};

#[derive(Debug)]
pub(super) struct EngineVm {
    vm: Vm,
}

impl EngineVm {
    pub(super) fn new(vm: Vm) -> Self {
        Self { vm }
    }
}

impl TestVm for EngineVm {
    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.vm.check_extension(cap)
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.vm.enable_cap(cap)
    }

    unsafe fn set_region(&self, region: &MemoryRegion) -> Result<(), Errno> {
        // SAFETY: what this function asks of its caller is what that one asks.
        unsafe { self.vm.set_user_memory_region(region) }
    }

    fn get_dirty_log(&self, slot: SlotId, dest: Dest<'_>) -> Result<(), Errno> {
        self.vm.get_dirty_log_with(slot, |bits| match dest {
            Dest::Words(words) => {
                words.get_mut(..bits.len()).ok_or(Errno::EFAULT)?.copy_from_slice(bits);
                Ok(())
            }
            Dest::Bad => Err(Errno::EFAULT),
        })
    }

    fn clear_dirty_log(&self, slot: SlotId, first: u64, num: u32, source: Source<'_>) -> Result<(), Errno> {
        self.vm.clear_dirty_log_with(slot, first, num, |bits| match source {
            Source::Words(words) => {
                bits.copy_from_slice(words.get(..bits.len()).ok_or(Errno::EFAULT)?);
                Ok(())
            }
            Source::Bad => Err(Errno::EFAULT),
        })
    }

    fn reset(&self, _arg: u64) -> Result<u32, Errno> {
        self.vm.reset_dirty_rings()
    }

    fn reset_amid_signals(&self, _every: Duration) -> Tried<u32> {
        const BEFORE_SIGNAL: u32 = 42_539;
        self.vm.faults().signal_next_reset_after(BEFORE_SIGNAL);
        let answer = self.vm.reset_dirty_rings();
        self.vm.faults().clear();
        Ok(answer)
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn TestVcpu>, Errno> {
        Ok(Box::new(EngineVcpu::new(self.vm.create_vcpu(id)?)))
    }

    fn in_forked_child(&self) -> Tried<()> {
        let question = || {
            let first = self.vm.check_extension(0).map(drop);
            first.and_then(|()| self.vm.reset_dirty_rings().map(drop)).map_or_else(Errno::raw, |()| 0)
        };
        // SAFETY: each ioctl of the engine compares process ids before it takes a lock, and gives EIO in a child.
        match unsafe { ask_child(question) } {
            Ok(ChildEnd::Code(0)) => Ok(Ok(())),
            Ok(ChildEnd::Code(raw)) => Ok(Err(Errno::from_raw(raw))),
            Ok(ChildEnd::Signal(signal)) => Err(Unsupported(format!("the child died by signal {signal}"))),
            Err(error) => Err(Unsupported(format!("no child process: {error}"))),
        }
    }

    fn create_device(&self, kind: u32) -> Tried<Box<dyn TestDevice>> {
        Ok(self.vm.create_device(kind).map(|device| Box::new(EngineDevice(device)) as Box<dyn TestDevice>))
    }

    fn signal_msi(&self, address: u64, device: u32, event: u32) -> Tried<u32> {
        Ok(self.vm.signal_msi(&Msi { address, data: event, devid: Some(device) }))
    }

    fn engine(&self) -> Option<&Vm> {
        Some(&self.vm)
    }
}

#[derive(Debug)]
struct EngineDevice(Device);

impl TestDevice for EngineDevice {
    fn set(&self, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
        self.0.set_attr(group, attr, value)
    }

    fn get(&self, group: u32, attr: u64) -> Result<u64, Errno> {
        let mut value = 0;
        self.0.get_attr(group, attr, &mut value).map(|()| value)
    }
}
