//! Whoever an epoch is for: it knows of memory only what epochs report.

use ringmark_dirty::{DirtyPages, SlotId};
use ringmark_probe::Ram;
use ringmark_track::{Audit, Memory};

use crate::failure::{OrTrouble, Trouble};

/// A copy of memory, made of reported pages alone.
pub(crate) struct Consumer {
    page_bytes: usize,
    now: Image,
    /// What the pages of this epoch were when the last one was committed.
    before: Image,
    of_this_epoch: DirtyPages,
    audit: Option<Audit>,
}

/// As many bytes as each slot has. They stay where they are: to allocate them anew costs as much as to copy them.
struct Image(Vec<(SlotId, Vec<u8>)>);

impl Image {
    fn new(ram: &Ram, page_bytes: usize) -> Self {
        let bytes = |npages| usize::try_from(npages).unwrap_or(usize::MAX).saturating_mul(page_bytes);
        Self(ram.slots().iter().map(|slot| (slot.id, vec![0; bytes(slot.npages)])).collect())
    }

    fn page(&mut self, bytes: usize, slot: SlotId, offset: u64) -> Option<&mut [u8]> {
        let (_, copy) = self.0.iter_mut().find(|(id, _)| *id == slot)?;
        let start = usize::try_from(offset).ok()?.checked_mul(bytes)?;
        copy.get_mut(start..start.checked_add(bytes)?)
    }
}

impl Consumer {
    pub(crate) fn new(ram: &Ram) -> Self {
        let page_bytes = usize::try_from(ram.page_size().bytes()).unwrap_or(usize::MAX);
        let copy = || Image::new(ram, page_bytes);
        let of_this_epoch = DirtyPages::new(ram.slots());
        Self { page_bytes, now: copy(), before: copy(), of_this_epoch, audit: None }
    }

    /// Copies the pages of a round or a cut.
    pub(crate) fn capture(&mut self, ram: &Ram, pages: &DirtyPages) -> Result<(), Trouble> {
        let Self { page_bytes, now, before, of_this_epoch, .. } = self;
        for (slot, offset) in pages.iter() {
            let no_page = || Trouble::unexpected("an epoch names a page")(&"that is none");
            let is_new = of_this_epoch.insert(slot, offset).map_err(|_| no_page())?;
            let copy = now.page(*page_bytes, slot, offset).ok_or_else(no_page)?;
            if is_new {
                before.page(*page_bytes, slot, offset).ok_or_else(no_page)?.copy_from_slice(copy);
            }
            ram.read(slot, offset, copy).or_trouble("reading guest memory")?;
        }
        Ok(())
    }

    /// Compares every page with the copy, and the audit's hashes with those of the last cut; how many pages there are. The
    /// guest stands still, and `epoch` is all that was reported since the last cut of a committed epoch.
    pub(crate) fn verify(&mut self, ram: &Ram, epoch: &DirtyPages) -> Result<u64, Trouble> {
        let mut pages = 0;
        for (slot, copy) in &self.now.0 {
            let memory = ram.pages(*slot).ok_or("no such slot").or_trouble("reading guest memory")?;
            for (page, copy) in (0..).zip(copy.chunks(self.page_bytes)) {
                let is_same = memory.is(page * ram.page_size().bytes(), copy);
                if !is_same.ok_or("no such page").or_trouble("reading guest memory")? {
                    let known = if epoch.contains(*slot, page) {
                        "reported, and written after"
                    } else {
                        "not reported"
                    };
                    let how = format!("the copy made from reported pages differs from memory ({known})");
                    return Err(Trouble::Escape { slot: slot.id(), page, how });
                }
                pages += 1;
            }
        }
        if let Some(audit) = &mut self.audit {
            let found = audit.observe(ram, epoch).or_trouble("auditing")?.escapes;
            if let Some(escape) = found.first() {
                let how = format!("{escape}; {} in all", found.len());
                return Err(Trouble::Escape { slot: escape.slot.id(), page: escape.offset, how });
            }
        } else {
            self.audit = Some(Audit::begin(ram.slots(), ram).or_trouble("beginning an audit")?);
        }
        Ok(pages)
    }

    /// The epoch is durable.
    pub(crate) fn commit(&mut self) {
        drop(self.of_this_epoch.take());
    }

    /// The epoch was given up, and what was copied with it: the next one has to bring all of it again.
    pub(crate) fn roll_back(&mut self) {
        let Self { page_bytes, now, before, of_this_epoch, .. } = self;
        for (slot, offset) in of_this_epoch.take().iter() {
            let then = before.page(*page_bytes, slot, offset);
            if let Some((copy, then)) = now.page(*page_bytes, slot, offset).zip(then) {
                copy.copy_from_slice(then);
            }
        }
    }

    /// Tracking ended; what was known is worth nothing.
    pub(crate) fn forget(&mut self) {
        drop(self.of_this_epoch.take());
        self.audit = None;
        for (_, copy) in &mut self.now.0 {
            copy.fill(0xa5);
        }
    }
}
