//! Mapping a ring into user space.

use ringmark_abi::Errno;

use crate::bench::Bench;
use crate::case::Case;
use crate::facts::ENTRY_BYTES;
use crate::target::{MapRequest, Probe};
use crate::verdict::{Must, Stop, Verdict, ensure, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T20",
        "ring-map-refused",
        [Ring],
        refused,
        "kvm_vcpu_mmap",
        "A ring cannot be mapped privately or executably."
    ),
    case!(
        "T21",
        "ring-map-extent",
        [Ring],
        extent,
        "kvm_vcpu_mmap, kvm_vcpu_fault",
        "Any part of a ring can be mapped shared, read-only too; what lies past its end maps and faults on access."
    ),
];

const SHARED: MapRequest = MapRequest { first: 0, pages: 1, write: false, exec: false, shared: true };

fn refused(bench: &Bench) -> Verdict {
    let vm = bench.ring(4096)?;
    let cpu = vm.vcpu(0)?;
    for (what, write) in [("private read-only", false), ("private read-write", true)] {
        let private = MapRequest { shared: false, write, ..SHARED };
        equal(format!("a {what} mapping"), cpu.map(&private)?.err(), Some(Errno::EINVAL))?;
    }
    // The kernel's own check gives EINVAL; newer kernels forbid executable anonymous inodes before they come to it.
    let exec = cpu.map(&MapRequest { exec: true, ..SHARED })?.err();
    ensure(
        "a shared executable mapping",
        matches!(exec, Some(Errno::EINVAL | Errno::EPERM)),
        "EINVAL or EPERM",
        exec,
    )
}

fn extent(bench: &Bench) -> Verdict {
    let vm = bench.ring(4096)?;
    let cpu = vm.vcpu(0)?;
    let pages = bench.facts().page_size.pages_in(cpu.ring_len() as u64 * ENTRY_BYTES);
    let probe = |what: &str, request: MapRequest, page: u64, want: Probe| -> Result<(), Stop> {
        let mapping = cpu.map(&request)?.must(what)?;
        equal(format!("{what}, page {page}"), mapping.probe(page), want)
    };
    let whole = MapRequest { pages, ..SHARED };
    probe("mapping the whole ring read-only", whole, 0, Probe::Readable)?;
    probe("mapping the whole ring", MapRequest { write: true, ..whole }, pages - 1, Probe::Readable)?;
    if pages > 1 {
        probe("mapping the second page only", MapRequest { first: 1, ..SHARED }, 0, Probe::Readable)?;
    }
    let longer = MapRequest { pages: pages + 1, ..SHARED };
    probe("mapping more than the ring", longer, 0, Probe::Readable)?;
    probe("mapping more than the ring", longer, pages, Probe::BusError)?;
    probe("mapping past the ring", MapRequest { first: pages, ..SHARED }, 0, Probe::BusError)?;

    let plain = bench.vm()?;
    let ringless = plain.vcpu(0)?;
    let mapping = ringless.map(&SHARED)?.must("mapping without a ring")?;
    equal("mapping without a ring", mapping.probe(0), Probe::BusError)
}
