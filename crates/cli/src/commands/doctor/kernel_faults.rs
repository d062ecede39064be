//! The known faults of dirty tracking, tried on this host's kernel with small guests.

use std::time::Duration;

use ringmark_kvm::System;
use ringmark_probe::{interrupted_reset, last_entry, overflow, ring_without_bitmap};

use super::finding::Finding;

/// For one probe; all together take about two seconds on a host that is not busy.
const LIMIT: Duration = Duration::from_secs(2);
/// Guests that a fault gets to show itself in.
const TRIES: u32 = 3;

pub(super) fn examine(system: &System, has_bitmap: bool) -> Vec<Finding> {
    let mut findings = vec![interrupted(system), overrun(system), ahead(system)];
    if cfg!(target_arch = "aarch64") {
        findings.push(without_bitmap(system, has_bitmap));
    }
    findings
}

fn unknown(what: &'static str, why: impl ToString) -> Finding {
    let remedy =
        "Ringmark takes the fault for present; run `ringmark doctor` again on a host with less to do";
    Finding::caveat(what, format!("not known: {}", why.to_string()), remedy)
}

fn interrupted(system: &System) -> Finding {
    let what = "fault: interrupted reset";
    match interrupted_reset(system, TRIES, LIMIT) {
        Ok(found) if found.lost == 0 => Finding::good(
            what,
            format!("not seen: {} entries reset amid signals, no page lost", found.entries),
        ),
        Ok(found) => Finding::contained(
            what,
            format!(
                "present: {} of {} pages lost in {} resets amid signals",
                found.lost, found.entries, found.calls
            ),
            "nothing: Ringmark resets on a thread that takes no signal; other monitors lose pages here",
        ),
        Err(error) => unknown(what, error),
    }
}

fn overrun(system: &System) -> Finding {
    let what = "fault: ring overflow";
    match overflow(system, TRIES, LIMIT) {
        Ok(found) if found.overruns == 0 => Finding::good(
            what,
            format!(
                "not seen: at most {} of {} entries used at {} full exits",
                found.most, found.ring, found.full
            ),
        ),
        Ok(found) => Finding::caveat(
            what,
            format!(
                "present: kernel-mode guest code overran {} of {} rings of {} entries, {} pages lost",
                found.overruns, found.full, found.ring, found.lost
            ),
            "leave rings at their default, the largest size; after an overflow Ringmark reports every page",
        ),
        Err(error) => unknown(what, error),
    }
}

fn ahead(system: &System) -> Finding {
    let what = "newest entry of a full ring";
    match last_entry(system, LIMIT) {
        Ok(found) if found.ahead == 0 => Finding::good(what, "its store has happened"),
        Ok(found) => Finding::contained(
            what,
            format!("{} of {} logged pages not yet stored to", found.ahead, found.logged),
            "nothing: vCPU state is of the same cut, and the store is made again",
        ),
        Err(error) => unknown(what, error),
    }
}

fn without_bitmap(system: &System, has_bitmap: bool) -> Finding {
    let what = "fault: ring without bitmap";
    match ring_without_bitmap(system, LIMIT) {
        Ok(found) if found.lost() == 0 => Finding::good(
            what,
            format!("not seen: {} pages of huge-page memory written, all logged", found.written),
        ),
        Ok(found) => {
            let seen = format!("present: {} of {} pages not logged", found.lost(), found.written);
            if has_bitmap {
                Finding::contained(what, seen, "nothing: Ringmark uses no ring without a bitmap here")
            } else {
                Finding::caveat(what, seen, "Ringmark tracks with bitmaps here; Linux 6.4 has both together")
            }
        }
        Err(error) => unknown(what, error),
    }
}
