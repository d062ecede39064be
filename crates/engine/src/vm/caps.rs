//! Capabilities of a VM: the order in which they may be enabled, and what each refusal is.

use std::sync::atomic::Ordering;

use ringmark_abi::{EnableCap, Errno, cap, manual};
use ringmark_dirty::Entry;

use super::VmInner;
use crate::{profile::MAX_RING_BYTES, sync::lock};

impl VmInner {
    /// `kvm_vm_ioctl_enable_cap_generic`.
    pub(super) fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        match cap.cap {
            cap::MANUAL_DIRTY_LOG_PROTECT2 => self.enable_manual_protect(cap),
            cap::DIRTY_LOG_RING | cap::DIRTY_LOG_RING_ACQ_REL => {
                if self.profile.check_extension(cap.cap) == 0 {
                    return Err(Errno::EINVAL);
                }
                // The kernel passes a u64 argument on as a u32 and never looks at flags or the other arguments.
                #[expect(clippy::cast_possible_truncation, reason = "the kernel truncates")]
                self.enable_ring(cap.args[0] as u32)
            }
            cap::DIRTY_LOG_RING_WITH_BITMAP => self.enable_backup_bitmap(cap),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Replaces the mode of `KVM_GET_DIRTY_LOG`, at any time.
    fn enable_manual_protect(&self, cap: &EnableCap) -> Result<(), Errno> {
        let value = cap.args[0];
        let mut allowed = manual::PROTECT_ENABLE;
        if value & manual::PROTECT_ENABLE != 0 {
            allowed |= manual::INITIALLY_SET;
        }
        let offered = self.profile.check_extension(cap::MANUAL_DIRTY_LOG_PROTECT2);
        if cap.flags != 0 || value & !(allowed & offered) != 0 {
            return Err(Errno::EINVAL);
        }
        self.manual.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// `kvm_vm_ioctl_enable_dirty_log_ring`.
    fn enable_ring(&self, bytes: u32) -> Result<(), Errno> {
        let entry = u32::try_from(size_of::<Entry>()).map_err(|_| Errno::EINVAL)?;
        if !bytes.is_power_of_two()
            || bytes < self.profile.reserved_entries() * entry
            || u64::from(bytes) < self.profile.page_size.bytes()
        {
            return Err(Errno::EINVAL);
        }
        if bytes > MAX_RING_BYTES {
            return Err(Errno::E2BIG);
        }
        let created_vcpus = lock(&self.created_vcpus);
        if self.has_rings() || *created_vcpus != 0 {
            return Err(Errno::EINVAL);
        }
        self.ring_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// After a ring and before any memslot, so that every logging memslot gets a bitmap.
    fn enable_backup_bitmap(&self, cap: &EnableCap) -> Result<(), Errno> {
        if self.profile.check_extension(cap.cap) == 0 || !self.has_rings() || cap.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let _slots = lock(&self.slots_lock);
        if !self.memslots().is_empty() {
            return Err(Errno::EINVAL);
        }
        self.with_bitmap.store(true, Ordering::Relaxed);
        Ok(())
    }
}
