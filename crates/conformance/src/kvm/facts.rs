//! What kind of kernel this host has.

use std::fs;

use ringmark_abi::{EnableCap, Errno, Vm as _, cap};
use ringmark_kvm::System;

use super::arch;
use crate::facts::Facts;

/// `KVM_CAP_NR_MEMSLOTS`.
const NR_MEMSLOTS: u32 = 10;
/// `KVM_CAP_MULTI_ADDRESS_SPACE`.
const MULTI_ADDRESS_SPACE: u32 = 118;
/// Entries that the log adds to the reserve.
const PML_ENTRIES: u32 = 512;

pub(super) fn find(system: &System) -> Result<Facts, Errno> {
    let number = |cap| system.check_extension(cap).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    let release = first_line("/proc/sys/kernel/osrelease");
    let version = parse_release(&release);
    let ring_cap = [cap::DIRTY_LOG_RING_ACQ_REL, cap::DIRTY_LOG_RING]
        .into_iter()
        .find(|&cap| system.check_extension(cap).is_ok_and(|bytes| bytes > 0));
    let mmu = arch::mmu();
    Ok(Facts {
        name: "kvm".into(),
        rules: arch::RULES,
        kernel: format!("Linux {release} ({mmu})"),
        release: version,
        mmu,
        page_size: system.page_size(),
        pml: ring_cap.map_or(Ok(0), |cap| pml(system, cap))?,
        user_slots: number(NR_MEMSLOTS)?,
        address_spaces: number(MULTI_ADDRESS_SPACE)?.max(1),
        real: true,
        ring: ring_cap.is_some(),
        with_bitmap: number(cap::DIRTY_LOG_RING_WITH_BITMAP)? > 0,
        gic: arch::has_gic(system)?,
        panics_on_warn: first_line("/proc/sys/kernel/panic_on_warn") != "0",
        reset_stops_on_signal: version.is_some_and(|version| version >= (6, 16)),
    })
}

/// Whether a page-modification log is in use: then a ring of one page, else the smallest, is refused.
fn pml(system: &System, ring_cap: u32) -> Result<u32, Errno> {
    let enabled = system.create_vm()?.enable_cap(&EnableCap::new(ring_cap, system.page_size().bytes()));
    Ok(if enabled == Err(Errno::EINVAL) { PML_ENTRIES } else { 0 })
}

/// The first line of a file of the kernel's; empty if there is none.
pub(super) fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_release;

    #[test]
    fn releases_are_parsed() {
        assert_eq!(parse_release("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(parse_release("7.2-rc1"), Some((7, 2)));
        assert_eq!(parse_release(""), None);
    }
}
