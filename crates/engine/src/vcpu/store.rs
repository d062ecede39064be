//! How a guest's access meets a page's state: translation, fault, log, store.
#![expect(unsafe_code, reason = "an access ends in guest memory, inside the section that pins it")]

use std::sync::Arc;

use ringmark_abi::Errno;
use ringmark_dirty::AtomicBitmap;

use super::{
    Exit, Running,
    running::within_page,
    section::Section,
    tlb::{Tlb, Translation},
};
use crate::{
    Vm,
    memory::HostAddress,
    memslots::{Memslots, Slot},
    sync::lock,
    vm::VmInner,
};

/// An input whose data is still to be written to guest memory.
#[derive(Debug)]
pub(super) struct PendingIo {
    pub(super) gpa: u64,
    pub(super) data: Vec<u8>,
}

/// What only the vCPU's own thread touches.
#[derive(Debug)]
pub(super) struct Core {
    tlb: Tlb,
    /// The epoch of the last walk; the memslots were read in it.
    epoch: u64,
    memslots: Arc<Memslots>,
    pub(super) as_id: u16,
    pub(super) pending_io: Option<PendingIo>,
}

impl Core {
    pub(super) fn new(vm: &Vm) -> Self {
        // The VM's epoch starts at 1, so the first walk reads the memslots.
        Self { tlb: Tlb::new(), epoch: 0, memslots: vm.inner().memslots(), as_id: 0, pending_io: None }
    }
}

/// What a walk of the page tables found.
enum Walk {
    /// Go on.
    Mapped(HostAddress),
    /// The fault was handled: look at the requests, then execute the instruction again.
    Retry,
    /// Leave guest mode and come back: the page-modification log is full, or an interrupt came.
    LeaveGuest,
    /// No memory there, or none that may be written.
    Mmio,
}

/// Leaves the section however the access ends.
struct InSection<'a>(&'a Section);

impl Drop for InSection<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Running<'_> {
    #[inline]
    pub(super) fn guest_store(&mut self, gpa: u64, data: &[u8]) -> Result<(), Exit> {
        let size = self.vcpu.vm.inner().profile.page_size;
        if !within_page(size, gpa, data.len()) {
            return Err(Exit::Failed(Errno::EINVAL));
        }
        loop {
            self.check_requests()?;
            let (gfn, in_page) = split(size, gpa);
            let walk = {
                let vcpu = &mut *self.vcpu;
                let (vm, core) = (vcpu.vm.inner(), &mut vcpu.core);
                let epoch = vcpu.shared.section.enter(&vm.epoch);
                let _section = InSection(&vcpu.shared.section);
                let cached = core.tlb.find(core.as_id, gfn, epoch);
                let strict = vm.strict.is_on();
                let walk = match cached {
                    Some(Translation { page, writable: true, .. }) if !strict => Walk::Mapped(page),
                    Some(Translation { page, writable: true, .. }) => {
                        note_write(vm, core, gfn);
                        Walk::Mapped(page)
                    }
                    _ => {
                        let walk = walk_store(vm, &vcpu.shared, core, gfn, epoch);
                        if strict && matches!(walk, Walk::Mapped(_)) {
                            note_write(vm, core, gfn);
                        }
                        walk
                    }
                };
                if let Walk::Mapped(page) = walk {
                    // SAFETY: the page was found in a memslot of this epoch, and its deletion waits for the section that
                    // we are in; `data` ends within the page.
                    unsafe { page.add(in_page).write(data) };
                    return Ok(());
                }
                walk
            };
            match walk {
                Walk::Mapped(_) | Walk::Retry => {}
                Walk::LeaveGuest => self.flush_pml(),
                Walk::Mmio => {
                    self.flush_pml();
                    return self.vcpu.vm.mmio_write(gpa, data);
                }
            }
        }
    }

    #[inline]
    pub(super) fn guest_load(&mut self, gpa: u64, data: &mut [u8]) -> Result<(), Exit> {
        let size = self.vcpu.vm.inner().profile.page_size;
        if !within_page(size, gpa, data.len()) {
            return Err(Exit::Failed(Errno::EINVAL));
        }
        loop {
            self.check_requests()?;
            let (gfn, in_page) = split(size, gpa);
            let walk = {
                let vcpu = &mut *self.vcpu;
                let (vm, core) = (vcpu.vm.inner(), &mut vcpu.core);
                let epoch = vcpu.shared.section.enter(&vm.epoch);
                let _section = InSection(&vcpu.shared.section);
                let walk = match core.tlb.find(core.as_id, gfn, epoch) {
                    Some(cached) => Walk::Mapped(cached.page),
                    None => walk_load(vm, &vcpu.shared, core, gfn, epoch),
                };
                if let Walk::Mapped(page) = walk {
                    // SAFETY: the page was found in a memslot of this epoch, and its deletion waits for the section that
                    // we are in; `data` ends within the page.
                    unsafe { page.add(in_page).read(data) };
                    return Ok(());
                }
                walk
            };
            match walk {
                Walk::Mapped(_) | Walk::Retry => {}
                Walk::LeaveGuest => self.flush_pml(),
                Walk::Mmio => {
                    self.flush_pml();
                    return self.vcpu.vm.mmio_read(gpa, data);
                }
            }
        }
    }
}

/// A store with no cached translation to go through.
///
/// The order is the point. A page is made writable *before* its entry is pushed, and both inside the section: a reset
/// that takes the entry comes after the push, so it finds the page writable and takes that away; pushed first, the entry
/// could be harvested and reset before the page became writable, and no store to it would ever be logged again.
fn walk_store(vm: &VmInner, shared: &super::VcpuShared, core: &mut Core, gfn: u64, epoch: u64) -> Walk {
    if core.refresh(vm, epoch) {
        return Walk::LeaveGuest;
    }
    let Some((slot, offset)) = core.memslots.find(core.as_id, gfn) else { return Walk::Mmio };
    if slot.is_readonly() {
        return Walk::Mmio;
    }
    if !slot.writable.test(offset) {
        if slot.is_logging() {
            vm.stats.write_faults.add(1);
            if vm.profile.pml == 0 {
                make_writable(vm, slot, offset);
                vm.log(Some(shared), slot, offset);
                return Walk::Retry;
            }
            let mut pml = lock(&shared.pml);
            if !pml.has_room() {
                return Walk::LeaveGuest;
            }
            make_writable(vm, slot, offset);
            pml.log(core.as_id, gfn);
        } else {
            make_writable(vm, slot, offset);
        }
    }
    let page = slot.page(offset, vm.profile.page_size);
    core.tlb.fill(core.as_id, gfn, epoch, page, true);
    Walk::Mapped(page)
}

fn walk_load(vm: &VmInner, shared: &super::VcpuShared, core: &mut Core, gfn: u64, epoch: u64) -> Walk {
    if core.refresh(vm, epoch) {
        return Walk::LeaveGuest;
    }
    let Some((slot, offset)) = core.memslots.find(core.as_id, gfn) else { return Walk::Mmio };
    if let Some(present) = &slot.present
        && !present.test(offset)
    {
        // Without a bitmap arm64 takes the slot for not logging, and maps for writing whatever it may (`user_mem_abort`).
        let maps_writable = slot.bitmap.is_none() && !slot.is_readonly();
        if maps_writable {
            make_writable(vm, slot, offset);
        } else {
            present.set(offset);
        }
        if maps_writable && slot.is_logging() {
            vm.log(Some(shared), slot, offset);
            return Walk::Retry;
        }
    }
    let page = slot.page(offset, vm.profile.page_size);
    let writable = !slot.is_readonly() && slot.writable.test(offset);
    core.tlb.fill(core.as_id, gfn, epoch, page, writable);
    Walk::Mapped(page)
}

impl Core {
    /// Reads the memslots again if a flush has happened since the last walk. Whether the vCPU must leave guest mode:
    /// the flush was an interrupt to it, and an exit empties the page-modification log.
    fn refresh(&mut self, vm: &VmInner, epoch: u64) -> bool {
        if self.epoch == epoch {
            return false;
        }
        self.memslots = vm.memslots();
        self.epoch = epoch;
        vm.profile.pml != 0
    }
}

/// Lets stores to the page through; in the huge-page hole, stores to its whole block.
fn make_writable(vm: &VmInner, slot: &Slot, offset: u64) {
    match vm.block(slot, offset) {
        Some(block) => {
            if let Some(present) = &slot.present {
                present.set_range(block.clone());
            }
            slot.writable.set_range(block);
        }
        None => {
            slot.present.as_deref().map(|present: &AtomicBitmap| present.set(offset));
            slot.writable.set(offset);
        }
    }
}

/// Strict mode: the page is about to be written.
fn note_write(vm: &VmInner, core: &Core, gfn: u64) {
    if let Some((slot, offset)) = core.memslots.find(core.as_id, gfn) {
        vm.note_write(slot, offset);
    }
}

#[inline]
fn split(size: ringmark_dirty::PageSize, gpa: u64) -> (u64, usize) {
    #[expect(clippy::cast_possible_truncation, reason = "below a page, which is at most 1 GiB")]
    let in_page = (gpa & (size.bytes() - 1)) as usize;
    (gpa >> size.shift(), in_page)
}
