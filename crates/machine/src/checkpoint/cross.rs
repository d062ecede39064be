//! A second look at what was written, at every cut.

#![allow(unsafe_code, reason = "the promise about guest memory's mapping is made here")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ringmark_dirty::DirtyPages;
use ringmark_track::{Differential, MemoryHashes, Source, SourceError, WriteProtect, WriteProtectError};

use super::CheckpointError;
use crate::machine::Machine;
use crate::ram::{MarkedMemory, Ram};

/// What the sources that track a machine are checked with at every cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckWith {
    /// Write protection in this process's page table, asynchronous, with scans of it: every page that was written, by the
    /// guest or by anything else through the mapping of its memory.
    Uffd,
    /// A hash of every page: every page whose content changed. The guest stands still for a walk of all its memory.
    Hash,
}

impl fmt::Display for CheckWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uffd => "uffd",
            Self::Hash => "hash",
        })
    }
}

/// The sources of a machine cannot be checked so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckWithError {
    /// Both need a userfaultfd of the same mapping, which can have one.
    #[error(
        "memory that arrives lazily cannot be checked with uffd: restore with --eager, or check with hash"
    )]
    Arriving,
    /// KVM takes a page for writing (and so has it copied), finds its own tables changed by that, and tries again; a vCPU that
    /// is stopped in between has written nothing yet and logged nothing, while its page counts as written here.
    #[error(
        "memory that is shared with other machines cannot be checked with uffd, which sees the copy of a page that the guest \
         is about to write: check with hash"
    )]
    Shared,
    /// This host has no such thing.
    #[error(transparent)]
    WriteProtect(#[from] WriteProtectError),
    /// It could not be begun.
    #[error("the check could not be begun: {0}")]
    Begin(#[from] SourceError),
    /// A memslot has no place in this process.
    #[error("guest memory is not mapped")]
    NoMapping,
}

/// What the check of a cut came to. Every page that it saw was reported by a source, or there is no checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct CheckOutcome {
    /// With what.
    pub with: CheckWith,
    /// Pages that it saw.
    pub pages: u64,
    /// How long it took, with the guest standing.
    pub elapsed: Duration,
}

/// The check of one machine.
#[derive(Debug)]
pub(crate) struct CrossCheck {
    // Before the memory: the checker is registered with its mapping.
    differential: Differential,
    with: CheckWith,
    _memory: MarkedMemory,
}

impl CrossCheck {
    /// Compares what the checker saw with the pages of the sealed epoch.
    pub(super) fn observe(&mut self, pages: &DirtyPages) -> Result<CheckOutcome, CheckpointError> {
        let report = self.differential.observe(pages).map_err(CheckpointError::Check)?;
        if !report.escapes.is_empty() {
            return Err(CheckpointError::Unseen { with: self.with, escapes: report.escapes });
        }
        Ok(CheckOutcome { with: self.with, pages: report.seen, elapsed: report.elapsed })
    }
}

impl Machine {
    /// From here on holds what the sources report against a second look, at every cut: a page that it saw written and that no
    /// source reported fails the checkpoint. To be called before the machine first runs.
    ///
    /// # Errors
    /// Where it cannot be had; nothing is checked then.
    pub fn check_with(&self, with: CheckWith) -> Result<(), CheckWithError> {
        let mut state = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        // A mapping has one userfaultfd, so the old goes before the new comes.
        state.check = None;
        let checker: Box<dyn Source> = match with {
            CheckWith::Uffd => Box::new(write_protect(&self.ram)?),
            CheckWith::Hash => Box::new(MemoryHashes::new(self.ram.slots(), Arc::new(self.ram.clone()))),
        };
        let page_size = self.ram.layout().page_size();
        let reports = state.tracker.remember_reports();
        let mut differential = Differential::new(checker, self.ram.slots(), page_size).with_reports(reports);
        differential.begin()?;
        state.check = Some(CrossCheck { differential, with, _memory: self.ram.guest().clone() });
        Ok(())
    }
}

fn write_protect(ram: &Ram) -> Result<WriteProtect, CheckWithError> {
    if ram.is_shared() {
        return Err(CheckWithError::Shared);
    }
    if ram.arrival().is_some_and(|arrival| !arrival.whole) || ram.wait_until_whole().is_err() {
        return Err(CheckWithError::Arriving);
    }
    let mut mappings = Vec::new();
    for (slot, (_, start)) in ram.layout().slots().iter().zip(ram.host_addresses()) {
        let start = usize::try_from(start).map_err(|_| CheckWithError::NoMapping)?;
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(start));
        mappings.push((*slot, start.ok_or(CheckWithError::NoMapping)?));
    }
    // SAFETY: each is a region of guest memory, which is copied from and to and never referenced, and which `CrossCheck`
    // keeps mapped for longer than it keeps the checker.
    Ok(unsafe { WriteProtect::new(mappings, ram.layout().page_size()) }?)
}
