//! Every page whose content changed, by a hash of each.

use std::sync::Arc;

use ringmark_dirty::{DirtyPages, SlotTable};

use crate::{Audit, Collected, Memory, Source, SourceError, SourceKind};

/// A source that sees every change of memory, whoever made it: eight bytes a page, and a walk of all of memory at each
/// harvest. Its harvests mean something only while the guest is stopped.
pub struct MemoryHashes {
    slots: SlotTable,
    memory: Arc<dyn Memory + Send + Sync>,
    audit: Option<Audit>,
}

impl MemoryHashes {
    /// Of `slots` in `memory`.
    #[must_use]
    pub fn new(slots: &SlotTable, memory: Arc<dyn Memory + Send + Sync>) -> Self {
        Self { slots: slots.clone(), memory, audit: None }
    }
}

impl Source for MemoryHashes {
    fn kind(&self) -> SourceKind {
        SourceKind::Other
    }

    fn arm(&mut self) -> Result<(), SourceError> {
        let audit = Audit::begin(&self.slots, &*self.memory);
        self.audit = Some(audit.map_err(|error| SourceError::Other(error.into()))?);
        Ok(())
    }

    fn harvest(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        let Some(audit) = &mut self.audit else { return Ok(()) };
        // An audit to which nothing was reported finds every page that changed.
        let report = audit.observe(&*self.memory, &DirtyPages::new(&self.slots));
        let report = report.map_err(|error| {
            into.suspect_all();
            SourceError::Other(error.into())
        })?;
        for changed in report.escapes {
            if into.insert(changed.slot, changed.offset).is_err() {
                into.suspect(changed.slot);
            }
        }
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), SourceError> {
        self.audit = None;
        Ok(())
    }
}

impl std::fmt::Debug for MemoryHashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryHashes").field("armed", &self.audit.is_some()).finish_non_exhaustive()
    }
}
