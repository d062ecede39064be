//! Devices: their writes to guest memory, and the guest's accesses to them.
#![expect(unsafe_code, reason = "a device's access ends in guest memory, under the lock that pins it")]

use ringmark_abi::Errno;

use super::{Marked, Vm, VmInner, Writer};
use crate::{
    Exit,
    gic::{Gic, host::Host},
    profile::Arch,
    sync::read,
};

/// The VM as its interrupt controller sees it.
#[derive(Debug)]
pub(crate) struct Bus<'a>(&'a Vm);

impl Host for Bus<'_> {
    fn read(&self, gpa: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.0.device_read(gpa, data)
    }

    fn write(&self, gpa: u64, data: &[u8]) -> Result<(), Errno> {
        // Where the page was logged is no concern of the controller's, as in the kernel.
        self.0.device_write(gpa, data, Writer::VgicTable).map(drop)
    }

    fn is_visible(&self, gpa: u64) -> bool {
        self.0.inner.memslots().find(0, self.0.inner.profile.page_size.gfn(gpa).0).is_some()
    }

    fn has_vcpu(&self, id: u32) -> bool {
        read(&self.0.inner.vcpus).iter().any(|vcpu| vcpu.id == id)
    }

    fn vcpus(&self) -> Vec<u32> {
        self.0.vcpu_ids()
    }
}

impl Vm {
    /// `kvm_write_guest` of a device: writes `data` at `gpa` of address space 0 and marks its pages, each after its
    /// write. On a thread with a loaded vCPU (a guest's access to the device) the marks go to its ring, else to bitmaps.
    /// Returns the worst of the marks.
    ///
    /// # Errors
    /// `EFAULT` where a page lies in no memslot or a read-only one; pages before it are written and marked.
    pub fn device_write(&self, gpa: u64, data: &[u8], writer: Writer) -> Result<Marked, Errno> {
        self.inner.write_guest(0, gpa, data, writer)
    }

    /// `kvm_read_guest` of a device, from address space 0.
    ///
    /// # Errors
    /// `EFAULT` where a page lies in no memslot.
    pub fn device_read(&self, gpa: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.inner.read_guest(0, gpa, data)
    }

    /// The interrupt controller, created or not.
    pub(crate) fn gic(&self) -> &Gic {
        &self.inner.gic
    }

    /// What the interrupt controller works with.
    pub(crate) const fn bus(&self) -> Bus<'_> {
        Bus(self)
    }

    /// A guest's store outside memory, in its vCPU's context.
    pub(crate) fn mmio_write(&self, gpa: u64, data: &[u8]) -> Result<(), Exit> {
        if self.has_gic_frames() && self.gic().guest_write(&self.bus(), gpa, data) {
            return Ok(());
        }
        Err(Exit::Mmio { gpa, len: data.len(), write: true })
    }

    /// A guest's load outside memory, in its vCPU's context.
    pub(crate) fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> Result<(), Exit> {
        if self.has_gic_frames() && self.gic().guest_read(&self.bus(), gpa, data) {
            return Ok(());
        }
        Err(Exit::Mmio { gpa, len: data.len(), write: false })
    }

    fn has_gic_frames(&self) -> bool {
        self.inner.profile.arch == Arch::Arm64
    }
}

impl VmInner {
    /// `kvm_write_guest`: page by page, each marked after it was written.
    pub(crate) fn write_guest(
        &self,
        as_id: u16,
        gpa: u64,
        data: &[u8],
        writer: Writer,
    ) -> Result<Marked, Errno> {
        let size = self.profile.page_size;
        let _pin = read(&self.memory_users);
        let memslots = self.memslots();
        let mut worst: Option<Marked> = None;
        for part in parts(size.bytes(), gpa, data.len()) {
            let gpa = part.gpa.ok_or(Errno::EFAULT)?;
            let found = memslots.find(as_id, size.gfn(gpa).0);
            let (slot, offset) = found.filter(|(slot, _)| !slot.is_readonly()).ok_or(Errno::EFAULT)?;
            self.note_write(slot, offset);
            // SAFETY: the slot is of the set in force, and its deletion waits for the lock held in `_pin`; the part ends
            // within the page.
            unsafe { slot.page(offset, size).add(part.in_page).write(&data[part.data]) };
            worst = worst.max(Some(self.mark_page_dirty(slot, offset, writer)));
        }
        Ok(worst.unwrap_or(Marked::NotLogging))
    }

    /// `kvm_read_guest`.
    pub(crate) fn read_guest(&self, as_id: u16, gpa: u64, data: &mut [u8]) -> Result<(), Errno> {
        let size = self.profile.page_size;
        let _pin = read(&self.memory_users);
        let memslots = self.memslots();
        for part in parts(size.bytes(), gpa, data.len()) {
            let gpa = part.gpa.ok_or(Errno::EFAULT)?;
            let (slot, offset) = memslots.find(as_id, size.gfn(gpa).0).ok_or(Errno::EFAULT)?;
            // SAFETY: the slot is of the set in force, and its deletion waits for the lock held in `_pin`; the part ends
            // within the page.
            unsafe { slot.page(offset, size).add(part.in_page).read(&mut data[part.data]) };
        }
        Ok(())
    }
}

/// The share of an access that lies in one page.
struct Part {
    /// `None` past the end of 64 bits.
    gpa: Option<u64>,
    in_page: usize,
    data: std::ops::Range<usize>,
}

/// Cuts `len` bytes at `gpa` at page borders.
#[expect(clippy::cast_possible_truncation, reason = "a page is at most 1 GiB")]
fn parts(page: u64, gpa: u64, len: usize) -> impl Iterator<Item = Part> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let here = gpa.checked_add(at as u64);
        let in_page = (here.unwrap_or(0) & (page - 1)) as usize;
        let end = len.min(at + page as usize - in_page);
        let part = Part { gpa: here, in_page, data: at..end };
        at = end;
        Some(part)
    })
}
