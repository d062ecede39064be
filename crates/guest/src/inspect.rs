//! The check from outside: the monitor reads a stopped machine's memory.

use crate::config::Config;
use crate::damage::{Damage, DamageKind, Report};
use crate::device::{self, DevicePage};
use crate::interrupts::{Interrupts, InterruptsError};
use crate::memory::Load;
use crate::status::{InFlight, Status};
use crate::walk::Walk;

/// Checks every certificate of every writer against ledgers, tallies and statuses, while no program runs.
///
/// Each writer may have been stopped between any two of its stores. The page it announced as in flight may be half
/// written, in the ways in which the order of its stores leaves it; everything else must agree exactly. A page that is
/// as it was at an earlier time is named by what was written since; the exception is the header, whose only variable
/// word is the monitor's own.
///
/// The words are read one by one, so an overlay of an image serves as well as a machine's memory.
///
/// # Errors
///
/// The memory's.
pub fn inspect<L: Load>(memory: &mut L, config: &Config) -> Result<Report, L::Error> {
    let mut report = Report::default();
    let mut newest_seen = (0, 0);
    for writer in 0..config.writers {
        let status = Status::load(memory, config, writer)?;
        let tally = memory.load(config.tally_gpa(writer))?;
        let mut walk = Walk::new(writer, status.in_flight);
        walk.advance(memory, config, config.pages)?;
        report.absorb(&walk.report);
        for damage in totals(config, writer, &status, tally, &walk).into_iter().flatten() {
            report.add(damage);
        }
        newest_seen = newest_seen.max((status.device_seen.max(walk.stamp), writer));
    }
    let (seen, writer) = newest_seen;
    if let Some(damage) = judge_device(device::read(memory, config)?, config, writer, seen) {
        report.add(damage);
    }
    match Interrupts::load(memory, config) {
        Ok(Some(interrupts)) => interrupts.inspect(memory, config, &mut report)?,
        Err(InterruptsError::Memory(error)) => return Err(error),
        // The words are the monitor's own, as the header's are.
        Ok(None) | Err(_) => {}
    }
    Ok(report)
}

/// What a status page may say of a writer whose walk gave these totals: the one about the status or tally page, and the
/// one about the ledger.
fn totals(config: &Config, writer: u64, status: &Status, tally: u64, walk: &Walk) -> [Option<Damage>; 2] {
    let damage =
        |kind, gpa, expected, seen| Some(Damage { kind, gfn: config.gfn_of(gpa), writer, expected, seen });
    let page = config.status_gpa(writer);
    let &Status { written, sequence, in_flight, .. } = status;
    if let Some(InFlight { page: in_flight, .. }) = in_flight
        && in_flight >= config.pages
    {
        return [damage(DamageKind::StatusBehind, page, config.pages, in_flight), None];
    }

    // A write may have stored its ledger entry and its tally, and not yet what it counts here.
    let announced = in_flight.map_or(sequence, |in_flight| in_flight.sequence.max(sequence));
    let counting = u64::from(in_flight.is_some());
    let counts = if walk.newest > announced {
        damage(DamageKind::StatusBehind, page, walk.newest, sequence)
    } else if tally > written.saturating_add(counting) {
        damage(DamageKind::StatusBehind, page, tally, written)
    } else if tally < written {
        damage(DamageKind::TallyBehind, config.tally_gpa(writer), written, tally)
    } else {
        None
    };
    let status_lost = counts.is_some_and(|damage| damage.kind == DamageKind::StatusBehind);
    let stored = in_flight.filter(|in_flight| in_flight.sequence == walk.entry_in_flight);
    let with_stored = stored.map_or(status.sum, |in_flight| {
        status.sum.wrapping_add(in_flight.sequence).wrapping_sub(in_flight.previous)
    });
    let adds_up = walk.sum == status.sum || walk.sum == with_stored;
    let ledger = if adds_up || status_lost {
        None
    } else {
        damage(DamageKind::LedgerTotal, config.ledger_gpa(writer, 0), status.sum, walk.sum)
    };
    [counts, ledger]
}

/// Whether the device page may be as it is after `writer` has seen record `seen`.
pub(crate) fn judge_device(page: DevicePage, config: &Config, writer: u64, seen: u64) -> Option<Damage> {
    let gfn = config.gfn_of(config.device_gpa());
    match page {
        DevicePage::Corrupt { expected, seen } => {
            Some(Damage { kind: DamageKind::DeviceCorrupt, gfn, writer, expected, seen })
        }
        DevicePage::Whole(record) if record.sequence < seen => Some(Damage {
            kind: DamageKind::DeviceBehind,
            gfn,
            writer,
            expected: seen,
            seen: record.sequence,
        }),
        DevicePage::Whole(_) => None,
    }
}
