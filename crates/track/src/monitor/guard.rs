//! Writes that go through a raw pointer.

use ringmark_dirty::mutant::{self, Mutant};

use super::SlotLog;

/// A write to guest memory that is under way: marks its pages when it is dropped, however the scope is left.
///
/// Take it *before* the write and keep it until the data is there: for a read into guest memory, until the read has
/// completed and not merely been submitted. A cut cannot be sealed while a guard is alive.
///
/// ```
/// # use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
/// # use ringmark_track::MonitorLog;
/// # let page_size = PageSize::new(4096).unwrap();
/// # let id = SlotId::new(0, 0);
/// # let slots = SlotTable::new([Memslot { id, base: Gfn(0), npages: 16 }]).unwrap();
/// let log = MonitorLog::new(&slots, page_size);
/// let slot = log.slot(id).unwrap();
/// {
///     let _guard = slot.write(0x1ffe, 4);
///     // ... copy four bytes to the slot's memory at 0x1ffe ...
///     assert!(!slot.is_marked(0x1000));
/// }
/// assert!(slot.is_marked(0x1000) && slot.is_marked(0x2000));
/// ```
#[derive(Debug)]
pub struct WriteGuard {
    log: SlotLog,
    offset: u64,
    len: u64,
}

impl WriteGuard {
    pub(super) fn new(log: SlotLog, offset: u64, len: u64) -> Self {
        log.begin_write();
        if mutant::active(Mutant::MarkBeforeWrite) {
            log.mark(offset, len);
        }
        Self { log, offset, len }
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        if !mutant::active(Mutant::MarkBeforeWrite) {
            self.log.mark(self.offset, self.len);
        }
        self.log.end_write();
    }
}
