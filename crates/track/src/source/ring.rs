//! The vCPUs' dirty rings as a source: a client of the collector.

use std::sync::Arc;

use ringmark_dirty::mutant::{self, Mutant};

use super::{Source, SourceError, SourceKind};
use crate::Collected;
use crate::collector::Collector;

/// All rings of a VM. Every harvest is the collector thread's; this end only asks and waits.
#[derive(Debug)]
pub(crate) struct RingSource {
    collector: Arc<Collector>,
}

impl RingSource {
    pub(crate) const fn new(collector: Arc<Collector>) -> Self {
        Self { collector }
    }
}

impl Source for RingSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Ring
    }

    /// Empties the rings: entries from before would only make them smaller.
    fn arm(&mut self) -> Result<(), SourceError> {
        self.collector.harvest_all().map(drop).map_err(SourceError::from)
    }

    fn harvest(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        into.union_with(&self.collector.harvest_all()?);
        Ok(())
    }

    fn seal(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        if !mutant::active(Mutant::FinalHarvestSkipped) {
            into.union_with(&self.collector.harvest_stopped()?);
        }
        Ok(())
    }

    fn pending(&mut self) -> Option<u64> {
        self.collector.pending().ok()
    }

    /// A vCPU ioctl after the final harvest pushes entries (setting the wall-clock MSR pushes three), and what it
    /// wrote is not in the sealed pages.
    fn unchanged_since_seal(&mut self) -> Result<(), SourceError> {
        match self.collector.pending()? {
            _ if mutant::active(Mutant::LateEntriesIgnored) => Ok(()),
            0 => Ok(()),
            pages => Err(SourceError::WrittenAfterSeal { pages, who: self.kind() }),
        }
    }

    /// Empties the rings after the log is off, or what is left would fill them later.
    fn disarm(&mut self) -> Result<(), SourceError> {
        self.collector.harvest_all().map(drop).map_err(SourceError::from)
    }
}
