//! `KVM_SET_USER_MEMORY_REGION`: what may change, in the kernel's order of checks.

use std::sync::{Arc, atomic::Ordering};

use ringmark_abi::{Errno, MemoryRegion, manual, mem};
use ringmark_dirty::{AtomicBitmap, Gfn, Memslot, SlotId};

use super::VmInner;
use crate::{
    memory::HostAddress,
    memslots::{Memslots, Slot},
    profile::Arch,
    strict::Truth,
    sync::{lock, write},
};

/// `enum kvm_mr_change`, of a slot that stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Create,
    Move,
    FlagsOnly,
}

impl VmInner {
    /// `kvm_set_memory_region`.
    pub(super) fn set_memory_region(&self, region: &MemoryRegion, memory: HostAddress) -> Result<(), Errno> {
        let _slots = lock(&self.slots_lock);
        self.set_memory_region_locked(region, memory)
    }

    /// The same slot with other flags.
    pub(super) fn set_flags(&self, id: SlotId, flags: u32) -> Result<(), Errno> {
        let _slots = lock(&self.slots_lock);
        let memslots = self.memslots();
        let slot = memslots.get(id).ok_or(Errno::ENOENT)?;
        let region = MemoryRegion { flags, ..slot.region(self.profile.page_size) };
        self.set_memory_region_locked(&region, slot.page(0, self.profile.page_size))
    }

    fn set_memory_region_locked(&self, region: &MemoryRegion, memory: HostAddress) -> Result<(), Errno> {
        let window = self.check_region(region)?;
        let memslots = self.memslots();
        let old = memslots.get(window.id);
        if window.npages == 0 {
            old.ok_or(Errno::EINVAL)?;
            self.install(memslots.without(window.id));
            return Ok(());
        }
        let change = match old {
            None => Change::Create,
            Some(old)
                if old.userspace_addr != region.userspace_addr
                    || old.npages() != window.npages
                    || (old.flags ^ region.flags) & mem::READONLY != 0 =>
            {
                return Err(Errno::EINVAL);
            }
            Some(old) if old.window.base != window.base => Change::Move,
            Some(old) if old.flags != region.flags => Change::FlagsOnly,
            Some(_) => return Ok(()),
        };
        if change != Change::FlagsOnly && memslots.overlaps(&window) {
            return Err(Errno::EEXIST);
        }
        self.check_guest_address(&window)?;
        let slot = self.changed_slot(change, region, window, memory, old.map(AsRef::as_ref));
        self.install(memslots.with(slot));
        Ok(())
    }

    /// The sanity checks that need no look at other slots.
    fn check_region(&self, region: &MemoryRegion) -> Result<Memslot, Errno> {
        let (profile, size) = (&self.profile, self.profile.page_size);
        let end_of_memory = region.userspace_addr.checked_add(region.memory_size);
        let sane = u32::from(region.slot.id()) < profile.user_slots
            && region.flags & !(mem::LOG_DIRTY_PAGES | mem::READONLY) == 0
            && [region.memory_size, region.guest_phys_addr, region.userspace_addr]
                .iter()
                .all(|&n| size.is_aligned(n))
            && end_of_memory.is_some_and(|end| end <= profile.user_address_end())
            && u32::from(region.slot.as_id()) < profile.address_spaces
            && region.guest_phys_addr.checked_add(region.memory_size).is_some()
            && size.pages_in(region.memory_size) <= Memslot::MAX_PAGES;
        if !sane {
            return Err(Errno::EINVAL);
        }
        let base = Gfn(size.pages_in(region.guest_phys_addr));
        Ok(Memslot { id: region.slot, base, npages: size.pages_in(region.memory_size) })
    }

    /// `kvm_arch_prepare_memory_region`: the slot must lie in the guest's address space.
    fn check_guest_address(&self, window: &Memslot) -> Result<(), Errno> {
        let frames = 1 << (self.profile.ipa_bits - self.profile.page_size.shift());
        if window.base.0 + window.npages <= frames {
            return Ok(());
        }
        Err(match self.profile.arch {
            Arch::Arm64 => Errno::EFAULT,
            Arch::X86 => Errno::EINVAL,
        })
    }

    /// `kvm_prepare_memory_region`, and the page state that `kvm_commit_memory_region` leaves.
    ///
    /// Write-protecting a whole slot is publishing it with page state in which nothing is writable: once the new set is
    /// in force ([`install`](Self::install)), every store finds that state.
    fn changed_slot(
        &self,
        change: Change,
        region: &MemoryRegion,
        window: Memslot,
        memory: HostAddress,
        old: Option<&Slot>,
    ) -> Slot {
        let initially_set = self.manual.load(Ordering::Relaxed) & manual::INITIALLY_SET != 0;
        let mut slot = Slot::new(region, window, memory, &self.profile);
        if let Some(old) = old {
            slot.truth = Arc::clone(&old.truth);
        }
        if let Some(old) = old.filter(|_| change == Change::FlagsOnly) {
            slot.present.clone_from(&old.present);
            // Switched on without INITIALLY_SET: every page is protected. Else page state stays, which with
            // INITIALLY_SET means that pages mapped before stay writable and unlogged until they are cleared once.
            if !slot.is_logging() || initially_set {
                slot.writable = Arc::clone(&old.writable);
            }
        }
        if slot.is_logging() {
            slot.bitmap = old.and_then(|old| old.bitmap.clone());
            if slot.bitmap.is_none() && self.uses_bitmaps() {
                let bitmap = AtomicBitmap::new(slot.npages());
                if initially_set {
                    bitmap.fill();
                }
                slot.bitmap = Some(Arc::new(bitmap));
            }
        }
        if self.strict.is_on() {
            slot.truth.get_or_init(|| Truth::new(slot.window.npages));
        }
        slot
    }

    /// `install_new_memslots`: when it returns nobody uses the old set any more, neither vCPU nor device.
    fn install(&self, memslots: Memslots) {
        *write(&self.memslots) = Arc::new(memslots);
        self.flush_remote_tlbs();
        drop(write(&self.memory_users));
    }
}
