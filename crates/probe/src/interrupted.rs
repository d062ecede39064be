//! What a reset that signals interrupt loses.

use std::thread;
use std::time::{Duration, Instant};

use ringmark_abi::Vm;
use ringmark_dirty::{DirtyPages, Harvested, Harvester, RingMemory, SlotTable};
use ringmark_kvm::System;
use ringmark_track::Wish;

use crate::error::During;
use crate::{Guest, Privilege, ProbeError, Program, reset_amid_signals};

/// Pages of the guest: a ring holds them all, and to reset so many takes several times [`DELAY`].
const PAGES: u64 = 32_768;
/// Until the first signal of a call; a call after many others waits longer, so that a slow kernel gets on at last.
const DELAY: Duration = Duration::from_micros(50);
/// Calls after which a kernel that resets nothing has another fault.
const MOST_CALLS: u32 = 1000;

/// What resets amid signals did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptedReset {
    /// Guests that were tried.
    pub tries: u32,
    /// Entries harvested, and returned by resets in the end.
    pub entries: u64,
    /// Calls of `KVM_RESET_DIRTY_RINGS`; one a try if no signal mattered.
    pub calls: u32,
    /// Pages that were written afterwards and not logged.
    pub lost: u64,
}

/// Lets guests write pages, resets their entries on a thread that signals interrupt, and counts the pages whose next write
/// is not logged. Ends with the first guest that shows any, after `tries` of them, or after `limit`.
///
/// A kernel from 6.16 on loses some (`kvm_dirty_ring_reset` leaves its loop before it re-protects what it has counted).
///
/// # Errors
/// Where there is no answer.
pub fn interrupted_reset(
    system: &System,
    tries: u32,
    limit: Duration,
) -> Result<InterruptedReset, ProbeError> {
    let begun = Instant::now();
    let mut found = InterruptedReset::default();
    while found.tries < tries && found.lost == 0 && (found.tries == 0 || begun.elapsed() < limit) {
        let (guest, _) = Guest::new(system, Wish::Ring { entries: None }, &[PAGES])?;
        let mut cpu = guest.processor(0, Privilege::User)?;
        let mut ring = Harvester::new(cpu.ring_memory().ok_or(ProbeError::NoRing)?)?;
        guest.start_logging().during("KVM_SET_USER_MEMORY_REGION")?;
        let full = || Err(ProbeError::Left("its ring is full".into()));
        let mut sweep = |value| {
            cpu.start(Program::Sweep { first: 0, pages: PAGES, value })?;
            cpu.finish(limit, full)
        };
        sweep(1)?;
        let entries = drain(&mut ring, guest.ram().slots(), &mut DirtyPages::new(guest.ram().slots()));
        found.tries += 1;
        found.entries += u64::from(entries);
        found.calls += under_fire(&*guest.vm(), entries)?;
        sweep(2)?;
        let mut logged = DirtyPages::new(guest.ram().slots());
        drain(&mut ring, guest.ram().slots(), &mut logged);
        found.lost += PAGES - logged.len();
    }
    Ok(found)
}

/// Resets until `entries` are counted; how many calls that took.
fn under_fire(vm: &dyn Vm, entries: u32) -> Result<u32, ProbeError> {
    let reset = || {
        let (mut counted, mut calls) = (0, 0);
        while counted < entries && calls < MOST_CALLS {
            counted += reset_amid_signals(vm, DELAY * (1 + calls / 16))?;
            calls += 1;
        }
        Ok(calls)
    };
    // A thread of its own, whose mask and timer are nobody else's.
    let answer = thread::scope(|scope| scope.spawn(reset).join());
    answer.unwrap_or(Err(ringmark_abi::Errno::EIO)).during("KVM_RESET_DIRTY_RINGS")
}

/// Harvests everything into `logged`; how many entries there were.
pub(crate) fn drain(
    ring: &mut Harvester<std::sync::Arc<dyn RingMemory>>,
    slots: &SlotTable,
    logged: &mut DirtyPages,
) -> u32 {
    let mut harvest = ring.harvest(slots);
    for entry in &mut harvest {
        if let Harvested::Page { slot, offset } = entry {
            // Entries of the table's slots name pages of it.
            let _ = logged.insert(slot, offset);
        }
    }
    harvest.taken()
}
