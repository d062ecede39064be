//! Memory for guests: how much, of which pages, and where it may go.

use std::fs;

use super::finding::Finding;

/// Below this a machine of the default size does not fit beside its copies.
const LITTLE: u64 = 1 << 30;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

pub(super) fn examine() -> Vec<Finding> {
    vec![available(), overcommit(), huge_pages(), swap()]
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Bytes of a line of `/proc/meminfo`.
fn meminfo(name: &str) -> Option<u64> {
    let text = text("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(KIB)
}

fn available() -> Finding {
    let what = "memory";
    let (Some(total), Some(free)) = (meminfo("MemTotal"), meminfo("MemAvailable")) else {
        return Finding::caveat(what, "not known", "mount /proc");
    };
    let found = format!("{} MiB available of {} MiB", free / MIB, total / MIB);
    if free < LITTLE {
        return Finding::caveat(
            what,
            found,
            "run small guests: a checkpoint holds copies of up to half their memory",
        );
    }
    Finding::good(what, found)
}

fn overcommit() -> Finding {
    let what = "overcommit";
    match text("/proc/sys/vm/overcommit_memory").trim() {
        "2" => {
            let remedy = "all of a guest's memory counts at once: set vm.overcommit_memory=0, or raise vm.overcommit_ratio";
            Finding::caveat(what, "never (mode 2)", remedy)
        }
        "1" => Finding::good(what, "always (mode 1)"),
        "0" => Finding::good(what, "by judgement (mode 0)"),
        _ => Finding::good(what, "not known"),
    }
}

/// What is chosen in a file of alternatives, the chosen one in brackets.
fn chosen(path: &str) -> String {
    text(path).split(['[', ']']).nth(1).unwrap_or("unknown").to_owned()
}

/// Guest memory is a memory file, whose huge pages are those of shared memory.
fn huge_pages() -> Finding {
    let folder = "/sys/kernel/mm/transparent_hugepage";
    let (shared, private) =
        (chosen(&format!("{folder}/shmem_enabled")), chosen(&format!("{folder}/enabled")));
    let found = format!("{shared} for guest memory, {private} for the monitor's own");
    if matches!(shared.as_str(), "always" | "force" | "within_size") {
        let why = "nothing: while it is tracked, guest memory is mapped page by page; untracked guests gain";
        return Finding::contained("transparent huge pages", found, why);
    }
    Finding::good("transparent huge pages", found)
}

fn swap() -> Finding {
    match text("/proc/swaps").lines().count().saturating_sub(1) {
        0 => Finding::good("swap", "none"),
        areas => {
            let remedy = "guest memory that is swapped out makes a pause as long as the disk takes";
            let found = format!("{areas} areas, {} MiB free", meminfo("SwapFree").unwrap_or(0) / MIB);
            Finding::caveat("swap", found, remedy)
        }
    }
}
