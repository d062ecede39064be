//! The kernel's backup bitmap beside the rings.

use std::sync::Arc;

use ringmark_dirty::mutant::{self, Mutant};

use super::{Source, SourceError, SourceKind};
use crate::Collected;
use crate::reaper::Reaper;

/// The pages that KVM wrote with no vCPU loaded: interrupt tables being saved and restored, commands that user space
/// makes the interrupt controller execute.
///
/// The kernel means the two logs to be collected in different windows: the rings throughout, this one once the VM is
/// stopped, as the last call into KVM. So a live harvest takes nothing, and the seal takes everything since the last
/// seal, also what a failed save or a restore left there in between.
#[derive(Debug)]
pub(crate) struct BackupBitmap {
    reaper: Arc<Reaper>,
}

impl BackupBitmap {
    pub(crate) const fn new(reaper: Arc<Reaper>) -> Self {
        Self { reaper }
    }
}

impl Source for BackupBitmap {
    fn kind(&self) -> SourceKind {
        SourceKind::Bitmap
    }

    /// Nothing to do: a slot whose log is switched on has a new, empty bitmap, and the first epoch reports every page.
    fn arm(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    fn harvest(&mut self, _: &mut Collected) -> Result<(), SourceError> {
        Ok(())
    }

    fn pending(&mut self) -> Option<u64> {
        Some(0)
    }

    fn seal(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        if !mutant::active(Mutant::BackupBitmapSkipped) {
            self.reaper.lock().get_dirty_logs(into, false);
        }
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}
