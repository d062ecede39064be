//! The page-modification log: a buffer that hardware fills behind the kernel's back.

use crate::profile::PML_ENTRIES;

/// Pages stored to and not yet shown to the ring or bitmap.
#[derive(Debug, Default)]
pub(crate) struct Pml {
    pages: Vec<(u16, u64)>,
}

impl Pml {
    /// Logs a store to `gfn` in address space `as_id`; false if the buffer is full, which is an exit *before* the store.
    pub(super) fn log(&mut self, as_id: u16, gfn: u64) -> bool {
        let room = self.pages.len() < PML_ENTRIES as usize;
        if room {
            self.pages.push((as_id, gfn));
        }
        room
    }

    pub(super) fn has_room(&self) -> bool {
        self.pages.len() < PML_ENTRIES as usize
    }

    /// Takes everything, oldest first.
    pub(super) fn take(&mut self) -> Vec<(u16, u64)> {
        std::mem::take(&mut self.pages)
    }

    /// What is in it now.
    pub(crate) fn pages(&self) -> &[(u16, u64)] {
        &self.pages
    }
}
