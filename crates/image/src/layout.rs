//! The memory that an image is of.

use std::sync::Arc;

use ringmark_dirty::{PageSize, SlotId, SlotTable};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    slot: SlotId,
    first: u64,
    npages: u64,
}

/// The memory layout of a machine: its memslots, gaps between them included, and the page size they are counted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    page_size: PageSize,
    slots: SlotTable,
    /// Where each slot begins when the pages of all are counted through.
    spans: Arc<[Span]>,
}

/// Why memslots are no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No memslot at all.
    #[error("a memory layout needs at least one memslot")]
    Empty,
    /// More memslots than an image may have.
    #[error("{0} memslots; an image has at most {max}", max = Layout::MAX_SLOTS)]
    TooManySlots(usize),
    /// A memslot that ends past 64 bits of guest-physical address.
    #[error("memslot {0} ends past the last guest-physical address")]
    PastEnd(SlotId),
    /// Pages that no extent of a pack can hold.
    #[error("pages of {0} bytes; an image has pages of at most {max} bytes", max = Layout::MAX_PAGE)]
    PageSize(u64),
}

impl Layout {
    /// The most memslots of an image.
    pub const MAX_SLOTS: usize = 4096;

    /// The largest page of an image in bytes.
    pub const MAX_PAGE: u64 = 1 << 20;

    /// A layout of `slots` in pages of `page_size`.
    ///
    /// # Errors
    /// No slot, too many slots, a slot past the end of the address space, or a page of more than 1 MiB.
    pub fn new(page_size: PageSize, slots: SlotTable) -> Result<Self, LayoutError> {
        if page_size.bytes() > Self::MAX_PAGE {
            return Err(LayoutError::PageSize(page_size.bytes()));
        }
        if slots.is_empty() {
            return Err(LayoutError::Empty);
        }
        if slots.iter().len() > Self::MAX_SLOTS {
            return Err(LayoutError::TooManySlots(slots.iter().len()));
        }
        for slot in slots.iter() {
            let last = slot.gfn(slot.npages - 1).and_then(|gfn| page_size.address(gfn));
            if last.is_none() {
                return Err(LayoutError::PastEnd(slot.id));
            }
        }
        let mut first = 0;
        let spans = slots.iter().map(|s| {
            let span = Span { slot: s.id, first, npages: s.npages };
            first += s.npages;
            span
        });
        let spans = spans.collect();
        Ok(Self { page_size, slots, spans })
    }

    /// Bytes of a page.
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The memslots in the order of their names.
    #[must_use]
    pub const fn slots(&self) -> &SlotTable {
        &self.slots
    }

    /// Pages of all slots together.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.slots.total_pages()
    }

    /// Bytes of all slots together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages().saturating_mul(self.page_size.bytes())
    }

    /// The number of a page when the pages of all slots are counted through in the order of the slots' names, if
    /// `pages` pages from it on are in its slot.
    pub(crate) fn number(&self, slot: SlotId, offset: u64, pages: u64) -> Option<u64> {
        let span = self.spans.binary_search_by_key(&slot, |s| s.slot).ok().map(|i| &self.spans[i])?;
        let end = offset.checked_add(pages)?;
        (end <= span.npages).then(|| span.first + offset)
    }

    /// The slot of page `number`, the page's offset in it, and the pages from there to the slot's end.
    pub(crate) fn place(&self, number: u64) -> Option<(SlotId, u64, u64)> {
        let behind = self.spans.partition_point(|s| s.first <= number);
        let span = self.spans.get(behind.checked_sub(1)?)?;
        let offset = number - span.first;
        (offset < span.npages).then(|| (span.slot, offset, span.npages - offset))
    }

    #[allow(clippy::cast_possible_truncation, reason = "a page of an image has at most a megabyte")]
    pub(crate) const fn page_bytes(&self) -> usize {
        self.page_size.bytes() as usize
    }
}
