//! Whether the newest entry of a full ring precedes its store.

use std::time::Duration;

use ringmark_dirty::{DirtyPages, Harvester};
use ringmark_kvm::System;

use crate::error::During;
use crate::interrupted::drain;
use crate::overflow::with_smallest_ring;
use crate::{Guest, Privilege, ProbeError, Program};

/// Pages of the guest: more than the smallest ring holds.
const PAGES: u64 = 8192;

/// What a full ring held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastEntry {
    /// Pages that it named.
    pub logged: u64,
    /// Those of them whose store had not happened.
    pub ahead: u64,
}

/// Fills the smallest ring of this host by user-mode stores, and compares what it names with what is in memory.
///
/// Where pages are logged by a fault the exit comes before the store, so one page still has its old content. That loses
/// nothing: vCPU state is taken at the same cut, and the store is made again.
///
/// # Errors
/// Where there is no answer.
pub fn last_entry(system: &System, limit: Duration) -> Result<LastEntry, ProbeError> {
    const VALUE: u64 = 0x5ca1_ab1e;
    let guest: Guest = with_smallest_ring(system, &[PAGES])?;
    let mut cpu = guest.processor(0, Privilege::User)?;
    let mut ring = Harvester::new(cpu.ring_memory().ok_or(ProbeError::NoRing)?)?;
    guest.start_logging().during("KVM_SET_USER_MEMORY_REGION")?;
    cpu.start(Program::Sweep { first: 0, pages: PAGES, value: VALUE })?;
    // The first full ring is the answer.
    match cpu.finish(limit, || Err(ProbeError::NoRing)) {
        Ok(_) | Err(ProbeError::NoRing) => {}
        Err(error) => return Err(error),
    }
    let mut logged = DirtyPages::new(guest.ram().slots());
    drain(&mut ring, guest.ram().slots(), &mut logged);
    let stored = |page: &u64| guest.ram().word(*page) == Some(VALUE);
    let happened = (0..PAGES)
        .filter(stored)
        .filter(|&page| guest.ram().locate(page).is_some_and(|(slot, offset)| logged.contains(slot, offset)))
        .count() as u64;
    Ok(LastEntry { logged: logged.len(), ahead: logged.len() - happened })
}
