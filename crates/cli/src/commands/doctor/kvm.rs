//! The host's KVM: its capabilities, its kind of MMU, and its known faults.

use std::fs;

use ringmark_abi::cap;
use ringmark_kvm::System;

use super::finding::Finding;
use super::kernel_faults;

/// `KVM_CAP_NR_VCPUS`, the recommended number, and `KVM_CAP_MAX_VCPUS`.
const NR_VCPUS: u32 = 9;
const MAX_VCPUS: u32 = 66;
/// `KVM_CAP_NR_MEMSLOTS`.
const NR_MEMSLOTS: u32 = 10;
/// Bytes of a ring's entry (`struct kvm_dirty_gfn`).
const ENTRY_BYTES: u64 = 16;

pub(super) fn examine() -> Vec<Finding> {
    let system = match System::open() {
        Ok(system) => system,
        Err(error) => {
            let remedy = "until then guests run on the software engine (`--hypervisor engine`)";
            return vec![Finding::missing("KVM", error.to_string(), remedy)];
        }
    };
    let value = |number| system.check_extension(number).unwrap_or(0);
    let ring = value(cap::DIRTY_LOG_RING_ACQ_REL).max(value(cap::DIRTY_LOG_RING));
    let backup = value(cap::DIRTY_LOG_RING_WITH_BITMAP);
    let mut findings = vec![Finding::good("KVM", mmu())];
    let (vcpus, most) = (value(NR_VCPUS), value(MAX_VCPUS));
    let slots = value(NR_MEMSLOTS);
    findings
        .push(Finding::good("machines", format!("up to {most} vCPUs ({vcpus} advised), {slots} memslots")));
    findings.push(rings(ring, system.page_size().bytes()));
    findings.push(backup_bitmap(ring, backup));
    findings.push(manual_protect(value(cap::MANUAL_DIRTY_LOG_PROTECT2)));
    if ring > 0 {
        findings.extend(kernel_faults::examine(&system, backup > 0));
    }
    findings
}

fn rings(bytes: u64, page: u64) -> Finding {
    let what = "dirty rings";
    if bytes == 0 {
        let remedy = "tracking uses bitmaps; Linux 5.11 (x86) and 6.1 (arm64) have rings";
        return Finding::caveat(what, "none", remedy);
    }
    Finding::good(what, format!("{} to {} entries a vCPU", page / ENTRY_BYTES, bytes / ENTRY_BYTES))
}

fn backup_bitmap(ring: u64, backup: u64) -> Finding {
    let what = "backup bitmap";
    match (ring, backup, std::env::consts::ARCH) {
        (_, 0, "x86_64") => Finding::good(what, "none: on x86-64 no writer needs it"),
        (0, 0, _) => Finding::good(what, "none, and no rings that would need it"),
        (_, 0, _) => {
            let remedy = "a ring alone loses pages here, so tracking uses bitmaps; Linux 6.4 has it";
            Finding::caveat(what, "none", remedy)
        }
        _ => Finding::good(what, "one a memslot"),
    }
}

fn manual_protect(modes: u64) -> Finding {
    if modes == 0 {
        return Finding::caveat("manual protect", "none", "only rings can be used; Linux 5.0 has it");
    }
    Finding::good("manual protect", format!("modes {modes:#x}"))
}

/// The kind of MMU, by the module that drives the processor; a figure without it says little.
fn mmu() -> String {
    let loaded = |module: &str| fs::metadata(format!("/sys/module/{module}")).is_ok();
    let on = |parameter: &str| {
        fs::read_to_string(format!("/sys/module/{parameter}")).is_ok_and(|v| matches!(v.trim(), "Y" | "1"))
    };
    if loaded("kvm_pvm") {
        "kvm_pvm: paravirtual, shadow paging, kernel-mode guest code emulated".into()
    } else if loaded("kvm_intel") {
        let pml = if on("kvm_intel/parameters/pml") { "page-modification log" } else { "write protection" };
        let ept = if on("kvm_intel/parameters/ept") { "EPT" } else { "shadow paging" };
        format!("kvm_intel: {ept}, {pml}")
    } else if loaded("kvm_amd") {
        let npt = if on("kvm_amd/parameters/npt") { "NPT" } else { "shadow paging" };
        format!("kvm_amd: {npt}, write protection")
    } else {
        format!("{}: built in", std::env::consts::ARCH)
    }
}
