//! The VM's ioctls, as the trait that hides which kernel answers.
#![expect(
    unsafe_code,
    reason = "setting a memslot is unsafe by the trait: the memory is the caller's promise"
)]

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm as VmIoctls};
use ringmark_dirty::{PageSize, SlotId};

use super::Vm;
use crate::memory::HostAddress;

impl VmIoctls for Vm {
    fn page_size(&self) -> PageSize {
        self.inner.profile.page_size
    }

    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.inner.check_alive()?;
        Ok(self.inner.profile.check_extension(cap))
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.inner.check_alive()?;
        self.inner.enable_cap(cap)
    }

    unsafe fn set_user_memory_region(&self, region: &MemoryRegion) -> Result<(), Errno> {
        self.inner.check_alive()?;
        let address = usize::try_from(region.userspace_addr).map_err(|_| Errno::EINVAL)?;
        self.inner.set_memory_region(region, HostAddress::new(address))
    }

    fn set_memslot_flags(&self, slot: SlotId, flags: u32) -> Result<(), Errno> {
        self.inner.check_alive()?;
        self.inner.set_flags(slot, flags)
    }

    fn get_dirty_log(&self, slot: SlotId, bitmap: &mut [u64]) -> Result<(), Errno> {
        self.inner.check_alive()?;
        self.inner.get_dirty_log(slot, bitmap)
    }

    fn clear_dirty_log(
        &self,
        slot: SlotId,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno> {
        self.inner.check_alive()?;
        self.inner.clear_dirty_log(slot, first_page, num_pages, |words| {
            words.copy_from_slice(bitmap.get(..words.len()).ok_or(Errno::EINVAL)?);
            Ok(())
        })
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        self.inner.check_alive()?;
        self.inner.reset_dirty_rings()
    }
}

impl Vm {
    /// `KVM_GET_DIRTY_LOG` with the copy to user space in the caller's hands: `copy_out` gets the whole bitmap at the
    /// end, when bits are taken and pages re-protected already. If it fails, that is the call's error, and the bits
    /// are gone all the same.
    ///
    /// # Errors
    /// As [`get_dirty_log`](VmIoctls::get_dirty_log), or what `copy_out` gives.
    pub fn get_dirty_log_with(
        &self,
        slot: SlotId,
        copy_out: impl FnOnce(&[u64]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.inner.check_alive()?;
        self.inner.get_dirty_log_with(slot, copy_out)
    }

    /// `KVM_CLEAR_DIRTY_LOG` with the copy from user space in the caller's hands: `copy_in` fills
    /// `num_pages.div_ceil(64)` words, after everything else was checked; it is not called for no pages.
    ///
    /// # Errors
    /// As [`clear_dirty_log`](VmIoctls::clear_dirty_log), or what `copy_in` gives.
    pub fn clear_dirty_log_with(
        &self,
        slot: SlotId,
        first_page: u64,
        num_pages: u32,
        copy_in: impl FnOnce(&mut [u64]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.inner.check_alive()?;
        self.inner.clear_dirty_log(slot, first_page, num_pages, copy_in)
    }
}
