//! What a ring without a bitmap logs of huge-page memory.

use std::time::Duration;

use ringmark_dirty::{DirtyPages, Harvester};
use ringmark_kvm::System;

use crate::error::During;
use crate::interrupted::drain;
use crate::{Guest, Privilege, ProbeError, Program};

/// Pages of the guest: several huge ones.
const PAGES: u64 = 2048;
/// Entries of its ring: all pages, and the largest reserve.
const RING: u32 = 4096;

/// What a ring alone logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WithoutBitmap {
    /// Pages that were written.
    pub written: u64,
    /// Those that were logged.
    pub logged: u64,
}

impl WithoutBitmap {
    /// Pages that were written and not logged.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.written.saturating_sub(self.logged)
    }
}

/// Lets a guest with a ring and no bitmap behind it write memory that may be of huge pages.
///
/// arm64's fault handler takes a *bitmap* for the sign that a slot is logged (`memslot_is_logging`): without one it maps a
/// writable block and logs one page of it. So Ringmark uses no ring there without a bitmap. Where the host gives no huge
/// pages, nothing is lost.
///
/// # Errors
/// Where there is no answer.
pub fn ring_without_bitmap(system: &System, limit: Duration) -> Result<WithoutBitmap, ProbeError> {
    let guest = Guest::with_ring_alone(system, RING, &[PAGES])?;
    let mut cpu = guest.processor(0, Privilege::User)?;
    let mut ring = Harvester::new(cpu.ring_memory().ok_or(ProbeError::NoRing)?)?;
    guest.start_logging().during("KVM_SET_USER_MEMORY_REGION")?;
    cpu.start(Program::Sweep { first: 0, pages: PAGES, value: 1 })?;
    cpu.finish(limit, || Err(ProbeError::Left("its ring is full".into())))?;
    let mut logged = DirtyPages::new(guest.ram().slots());
    drain(&mut ring, guest.ram().slots(), &mut logged);
    Ok(WithoutBitmap { written: PAGES, logged: logged.len() })
}
