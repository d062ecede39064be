//! The kernel's dirty bitmap without rings.

use std::sync::Arc;

use super::{Source, SourceError, SourceKind};
use crate::Collected;
use crate::reaper::Reaper;

/// The bitmap of every memslot, with manual protect.
///
/// `KVM_GET_DIRTY_LOG` reads it and protects nothing; `KVM_CLEAR_DIRTY_LOG` of exactly the bits that were read clears
/// and re-protects them, and only then may the pages be read. A write between the two finds its bit set already, and
/// its data is there when the page is read; a write after the second sets the bit again.
///
/// With all vCPUs out of `KVM_RUN` the seal is final. While they run, a page-modification log may hold writes back:
/// they come with a later harvest.
#[derive(Debug)]
pub(crate) struct StandaloneBitmap {
    reaper: Arc<Reaper>,
}

impl StandaloneBitmap {
    pub(crate) const fn new(reaper: Arc<Reaper>) -> Self {
        Self { reaper }
    }
}

impl Source for StandaloneBitmap {
    fn kind(&self) -> SourceKind {
        SourceKind::Bitmap
    }

    /// Nothing to do: a slot whose log is switched on has a new, empty bitmap, and the first epoch reports every page.
    fn arm(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    fn harvest(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        self.reaper.lock().get_dirty_logs(into, true);
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}
