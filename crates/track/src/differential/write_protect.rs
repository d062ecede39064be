//! Every page that was written through this process's mapping, by the host's own page tables.

#![allow(unsafe_code, reason = "the promise about the mappings is passed on")]

use std::ptr::NonNull;
use std::sync::Arc;

use ringmark_dirty::{Memslot, PageSize, SlotId};
use ringmark_uffd::{Faults, Features, OpenError, Userfaultfd, WriteLog, WriteLogError};

use crate::{Collected, Source, SourceError, SourceKind};

/// A source that needs no hypervisor: asynchronous write protection with userfaultfd, and scans of the page tables
/// (Linux 6.7; see [`WriteLog`]).
///
/// It sees the vCPUs' writes, since KVM maps a page writable only where this process's page table does and gives the mapping
/// up when that is protected; the kernel's writes for the VM; and this process's own. Not seen are writes by another mapping
/// of the same memory, by other processes, or by devices that hold pages pinned.
///
/// A page counts as written when it was opened for writing, so this reports more than what changed; and where the mapping
/// is backed by huge pages, all pages under one entry. Guests pay a fault of the host on the first write to each page after
/// a harvest, and KVM maps small pages while this is armed.
pub struct WriteProtect {
    logs: Vec<(SlotId, WriteLog)>,
    page_size: PageSize,
}

/// Why there is no write protection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteProtectError {
    /// No userfaultfd that can do it.
    #[error("writes cannot be found by write protection: {0}")]
    Open(#[from] OpenError),
    /// The mapping was refused.
    #[error("writes to memslot {slot} cannot be found by write protection: {error}")]
    Slot {
        /// The memslot.
        slot: SlotId,
        /// The kernel's answer.
        error: WriteLogError,
    },
    /// The memslot does not fit this process.
    #[error("memslot {0} is larger than this process's address space")]
    TooLarge(SlotId),
}

impl WriteProtect {
    /// Of each memslot with the address at which this process maps it. A mapping can have one userfaultfd only.
    ///
    /// # Errors
    /// Where this host cannot do it.
    ///
    /// # Safety
    /// Each mapping stays for as long as this lives, and nobody holds a Rust reference into it.
    pub unsafe fn new(
        mappings: impl IntoIterator<Item = (Memslot, NonNull<u8>)>,
        page_size: PageSize,
    ) -> Result<Self, WriteProtectError> {
        // The kernel resolves the faults by itself, so that no privilege is needed to stop its own.
        let uffd = Arc::new(Userfaultfd::open(Faults::UserOnly, Features::WRITE_LOG)?);
        let log = |(slot, start): (Memslot, NonNull<u8>)| {
            let bytes = slot.npages.checked_mul(page_size.bytes());
            let len = bytes.and_then(|bytes| usize::try_from(bytes).ok());
            let len = len.ok_or(WriteProtectError::TooLarge(slot.id))?;
            // SAFETY: the caller's promise.
            let log = unsafe { WriteLog::register(&uffd, start, len) };
            Ok((slot.id, log.map_err(|error| WriteProtectError::Slot { slot: slot.id, error })?))
        };
        let logs = mappings.into_iter().map(log).collect::<Result<_, WriteProtectError>>()?;
        Ok(Self { logs, page_size })
    }
}

impl Source for WriteProtect {
    fn kind(&self) -> SourceKind {
        SourceKind::Other
    }

    fn arm(&mut self) -> Result<(), SourceError> {
        self.logs.iter_mut().try_for_each(|(_, log)| log.protect()).map_err(|e| SourceError::Other(e.into()))
    }

    fn harvest(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        for (slot, log) in &mut self.logs {
            let mut known = true;
            let taken = log.take(|bytes| {
                let first = self.page_size.pages_in(bytes.start);
                let end = first + self.page_size.pages_in(bytes.end - bytes.start);
                known &= (first..end).all(|offset| into.insert(*slot, offset).is_ok());
            });
            if taken.is_err() || !known {
                into.suspect(*slot);
            }
            taken.map_err(|error| SourceError::Other(error.into()))?;
        }
        Ok(())
    }

    /// Nothing to do: the kernel goes on noting, and arming forgets it.
    fn disarm(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

impl std::fmt::Debug for WriteProtect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteProtect").field("slots", &self.logs.len()).finish_non_exhaustive()
    }
}
