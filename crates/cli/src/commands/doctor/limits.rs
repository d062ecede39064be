//! What the process may have.

use std::fs;
use std::num::NonZero;
use std::thread;

use rustix::process::{Resource, getrlimit};

use super::finding::Finding;

/// Descriptors of a machine of many vCPUs and of a store's files, with room.
const FILES: u64 = 1024;
/// Mappings of as many vCPUs' rings and run structures, with room; Linux's own default is as large.
const MAPPINGS: u64 = 65_530;
/// Kicks that may wait at once, with room.
const SIGNALS: u64 = 1024;

pub(super) fn examine() -> Vec<Finding> {
    vec![
        at_least("limit: open files", Resource::Nofile, FILES, "raise it (`ulimit -n 4096`)"),
        at_least("limit: pending signals", Resource::Sigpending, SIGNALS, "raise it (`ulimit -i 4096`)"),
        boundless(
            "limit: address space",
            Resource::As,
            "remove it (`ulimit -v unlimited`), or guests cannot be mapped",
        ),
        boundless(
            "limit: file size",
            Resource::Fsize,
            "remove it (`ulimit -f unlimited`), or images and guest memory end there",
        ),
        locked(),
        mappings(),
        cores(),
    ]
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".into(), |limit| limit.to_string())
}

fn at_least(what: &'static str, resource: Resource, least: u64, remedy: &'static str) -> Finding {
    let limit = getrlimit(resource).current;
    match limit {
        Some(limit) if limit < least => Finding::caveat(what, limit.to_string(), remedy),
        _ => Finding::good(what, shown(limit)),
    }
}

fn boundless(what: &'static str, resource: Resource, remedy: &'static str) -> Finding {
    match getrlimit(resource).current {
        Some(limit) => Finding::caveat(what, format!("{limit} bytes"), remedy),
        None => Finding::good(what, "unlimited"),
    }
}

/// Nothing of Ringmark's is locked; who locks guest memory for other reasons looks here.
fn locked() -> Finding {
    Finding::good("limit: locked memory", format!("{} bytes", shown(getrlimit(Resource::Memlock).current)))
}

fn mappings() -> Finding {
    let what = "limit: mappings";
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    match text.trim().parse::<u64>() {
        Ok(most) if most < MAPPINGS => {
            Finding::caveat(what, most.to_string(), format!("set vm.max_map_count={MAPPINGS}"))
        }
        Ok(most) => Finding::good(what, most.to_string()),
        Err(_) => Finding::good(what, "not known"),
    }
}

fn cores() -> Finding {
    let what = "processors";
    match thread::available_parallelism().map(NonZero::get) {
        Ok(1) => {
            let remedy = "the collector, the writer of images and the guest share it: pauses are longer";
            Finding::caveat(what, "1", remedy)
        }
        Ok(many) => Finding::good(what, many.to_string()),
        Err(error) => Finding::good(what, format!("not known: {error}")),
    }
}
