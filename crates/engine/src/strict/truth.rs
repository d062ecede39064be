//! When each page of a slot was last written, and last reported.

use std::sync::atomic::{AtomicU64, Ordering};

use ringmark_dirty::AtomicBitmap;

#[derive(Debug, Default)]
struct Page {
    written: AtomicU64,
    reported: AtomicU64,
}

/// The truth about the pages of one slot.
#[derive(Debug)]
pub(crate) struct Truth {
    pages: Box<[Page]>,
    /// Pages marked in the slot's bitmap since it was last collected, which in manual mode the bitmap does not say.
    uncollected: AtomicBitmap,
}

impl Truth {
    pub(crate) fn new(npages: u64) -> Self {
        Self { pages: (0..npages).map(|_| Page::default()).collect(), uncollected: AtomicBitmap::new(npages) }
    }

    fn page(&self, offset: u64) -> Option<&Page> {
        self.pages.get(usize::try_from(offset).ok()?)
    }

    pub(crate) fn write(&self, offset: u64, number: u64) {
        if let Some(page) = self.page(offset) {
            page.written.fetch_max(number, Ordering::Relaxed);
        }
    }

    /// Everything written to the page up to write `number` has been reported.
    pub(crate) fn report(&self, offset: u64, number: u64) {
        if let Some(page) = self.page(offset) {
            page.reported.fetch_max(number, Ordering::Relaxed);
        }
    }

    pub(crate) fn mark(&self, offset: u64) {
        self.uncollected.set(offset);
    }

    pub(crate) fn collect(&self) {
        for word in 0..self.uncollected.words() {
            self.uncollected.swap_word(word, 0);
        }
    }

    pub(crate) fn uncollected(&self) -> Vec<u64> {
        (0..self.uncollected.bits()).filter(|&offset| self.uncollected.test(offset)).collect()
    }

    /// Pages written later than they were reported.
    pub(crate) fn unreported(&self) -> impl Iterator<Item = u64> {
        self.pages
            .iter()
            .zip(0..)
            .filter(|(page, _)| page.written.load(Ordering::Relaxed) > page.reported.load(Ordering::Relaxed))
            .map(|(_, offset)| offset)
    }
}
