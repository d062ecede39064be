//! What a small ring loses while privileged guest code writes.

use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, Harvester};
use ringmark_kvm::System;
use ringmark_track::{NegotiateError, Wish};

use crate::error::During;
use crate::interrupted::drain;
use crate::{Guest, Privilege, ProbeError, Program};

/// Pages of the guest: several times the smallest ring.
const PAGES: u64 = 4096;

/// What small rings did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    /// Guests that were tried.
    pub tries: u32,
    /// Entries of their rings.
    pub ring: u32,
    /// Exits for a full ring.
    pub full: u32,
    /// Most entries found at such an exit; a kernel that behaves keeps 64 free.
    pub most: u32,
    /// Drains that gave as many entries as the ring has: it may have been overrun.
    pub overruns: u32,
    /// Pages that were written and whose entries are gone.
    pub lost: u64,
}

/// Lets kernel-mode guest code write more pages than the smallest ring of this host holds, draining it at every exit. Ends
/// with the first guest of which pages are lost, after `tries` of them, or after `limit`.
///
/// Mainline KVM leaves the guest 64 entries before a ring is full. A paravirtual one looks only between batches of
/// emulated instructions.
///
/// # Errors
/// Where there is no answer.
pub fn overflow(system: &System, tries: u32, limit: Duration) -> Result<Overflow, ProbeError> {
    let begun = Instant::now();
    let mut found = Overflow::default();
    while found.tries < tries && found.lost == 0 && (found.tries == 0 || begun.elapsed() < limit) {
        let guest = with_smallest_ring(system, &[PAGES])?;
        let slots = guest.ram().slots().clone();
        let vm = guest.vm();
        let mut cpu = guest.processor(0, Privilege::Kernel)?;
        let mut ring = Harvester::new(cpu.ring_memory().ok_or(ProbeError::NoRing)?)?;
        guest.start_logging().during("KVM_SET_USER_MEMORY_REGION")?;
        found.tries += 1;
        found.ring = ring.size();
        let value = u64::from(found.tries);
        let mut logged = DirtyPages::new(&slots);
        cpu.start(Program::Sweep { first: 0, pages: PAGES, value })?;
        let mut drained = || {
            let taken = drain(&mut ring, &slots, &mut logged);
            found.most = found.most.max(taken);
            let overrun = taken == found.ring;
            found.overruns += u32::from(overrun);
            vm.reset_dirty_rings().during("KVM_RESET_DIRTY_RINGS").map(|_| overrun)
        };
        // An overrun ring's cursors disagree from there on, so this guest goes no further.
        let ended = cpu.finish(limit, || if drained()? { Err(ProbeError::NoRing) } else { Ok(()) });
        match ended {
            Ok(full) => found.full += full,
            Err(ProbeError::NoRing) => found.full += 1,
            Err(error) => return Err(error),
        }
        drain(&mut ring, &slots, &mut logged);
        let written = (0..PAGES).filter(|&page| guest.ram().word(page) == Some(value));
        let unknown = written.filter(|&page| {
            guest.ram().locate(page).is_some_and(|(slot, offset)| !logged.contains(slot, offset))
        });
        found.lost += unknown.count() as u64;
    }
    Ok(found)
}

/// A guest with the smallest ring that the host takes: a page of entries, or more than a page-modification log's reserve.
pub(crate) fn with_smallest_ring(system: &System, npages: &[u64]) -> Result<Guest, ProbeError> {
    let entry = size_of::<ringmark_dirty::Entry>() as u64;
    let least = u32::try_from(system.page_size().bytes() / entry).unwrap_or(u32::MAX);
    let mut refused = ProbeError::NoRing;
    for entries in [least, 1024, 4096].into_iter().filter(|&entries| entries >= least) {
        match Guest::new(system, Wish::Ring { entries: Some(entries) }, npages) {
            Err(ProbeError::Negotiate(error @ NegotiateError::RingRefused { .. })) => {
                refused = error.into();
            }
            other => return other.map(|(guest, _)| guest),
        }
    }
    Err(refused)
}
