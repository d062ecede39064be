//! Whoever an epoch is for: it knows of memory only what epochs report.

use std::collections::HashMap;

use ringmark_dirty::{DirtyPages, SlotId};
use ringmark_probe::Ram;
use ringmark_track::{Audit, Memory};

use crate::failure::{OrTrouble, Trouble};

/// A copy of memory, made of reported pages alone.
pub(crate) struct Consumer {
    page_bytes: usize,
    slots: Vec<(SlotId, Vec<u8>)>,
    /// What the pages of this epoch were when the last one was committed.
    before: HashMap<(SlotId, u64), Box<[u8]>>,
    audit: Option<Audit>,
}

impl Consumer {
    pub(crate) fn new(ram: &Ram) -> Self {
        let page_bytes = usize::try_from(ram.page_size().bytes()).unwrap_or(usize::MAX);
        let empty =
            |npages| vec![0; usize::try_from(npages).unwrap_or(usize::MAX).saturating_mul(page_bytes)];
        let slots = ram.slots().iter().map(|slot| (slot.id, empty(slot.npages))).collect();
        Self { page_bytes, slots, before: HashMap::new(), audit: None }
    }

    /// Copies the pages of a round or a cut.
    pub(crate) fn capture(&mut self, ram: &Ram, pages: &DirtyPages) -> Result<(), Trouble> {
        for (slot, offset) in pages.iter() {
            let Self { page_bytes, slots, before, .. } = self;
            let copy = page_of(slots, *page_bytes, slot, offset)
                .ok_or_else(|| Trouble::unexpected("an epoch names a page")(&"that is none"))?;
            before.entry((slot, offset)).or_insert_with(|| copy.into());
            ram.read(slot, offset, copy).or_trouble("reading guest memory")?;
        }
        Ok(())
    }

    /// Compares every page with the copy, and the audit's hashes with those of the last cut; how many pages there are. The
    /// guest stands still, and `epoch` is all that was reported since the last cut of a committed epoch.
    pub(crate) fn verify(&mut self, ram: &Ram, epoch: &DirtyPages) -> Result<u64, Trouble> {
        let mut now = vec![0; self.page_bytes];
        let mut pages = 0;
        for (slot, copy) in &self.slots {
            for (page, copy) in (0..).zip(copy.chunks(self.page_bytes)) {
                ram.read(*slot, page, &mut now).or_trouble("reading guest memory")?;
                if now != copy {
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
        self.before.clear();
    }

    /// The epoch was given up, and what was copied with it: the next one has to bring all of it again.
    pub(crate) fn roll_back(&mut self) {
        for ((slot, offset), page) in self.before.drain() {
            if let Some(copy) = page_of(&mut self.slots, self.page_bytes, slot, offset) {
                copy.copy_from_slice(&page);
            }
        }
    }

    /// Tracking ended; what was known is worth nothing.
    pub(crate) fn forget(&mut self) {
        self.before.clear();
        self.audit = None;
        for (_, copy) in &mut self.slots {
            copy.fill(0xa5);
        }
    }
}

fn page_of(slots: &mut [(SlotId, Vec<u8>)], bytes: usize, slot: SlotId, offset: u64) -> Option<&mut [u8]> {
    let (_, copy) = slots.iter_mut().find(|(id, _)| *id == slot)?;
    let start = usize::try_from(offset).ok()?.checked_mul(bytes)?;
    copy.get_mut(start..start.checked_add(bytes)?)
}
