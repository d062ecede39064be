//! `ringmark doctor`: what this host can do.

use std::fs;
use std::process::ExitCode;

use ringmark_abi::cap;
use ringmark_kvm::System;
use serde::Serialize;
use serde_json::json;

use crate::output;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Caveat,
    Missing,
}

/// One line of the examination.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    found: String,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn new(what: &'static str, found: impl Into<String>, verdict: Verdict) -> Self {
        Self { what, found: found.into(), verdict, remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Examines the host. The exit code is 0 for a host that is fit, 1 for one that is usable with caveats and 2 for one
/// without a hypervisor of its own, on which only the engine runs.
pub(crate) fn run(as_json: bool) -> ExitCode {
    let mut findings = vec![host()];
    findings.extend(kvm());
    findings.push(huge_pages());
    findings.push(swap());
    let worst = findings.iter().map(|f| f.verdict).max().unwrap_or(Verdict::Good);
    if as_json {
        output::json(&json!({ "schema": output::SCHEMA, "verdict": worst, "findings": findings }));
    } else {
        let rows = findings.into_iter().map(|finding| {
            let verdict = match finding.verdict {
                Verdict::Good => "good",
                Verdict::Caveat => "caveat",
                Verdict::Missing => "missing",
            };
            let remedy = finding.remedy.unwrap_or_default();
            vec![finding.what.to_owned(), finding.found, verdict.to_owned(), remedy]
        });
        output::line(output::table(&["what", "found", "verdict", "what to do"], &[], rows));
    }
    ExitCode::from(match worst {
        Verdict::Good => 0,
        Verdict::Caveat => 1,
        Verdict::Missing => 2,
    })
}

fn host() -> Finding {
    let name = rustix::system::uname();
    let page = rustix::param::page_size();
    let found = format!(
        "Linux {}, {}, pages of {} KiB",
        name.release().to_string_lossy(),
        name.machine().to_string_lossy(),
        page / 1024
    );
    Finding::new("host", found, Verdict::Good)
}

fn kvm() -> Vec<Finding> {
    let system = match System::open() {
        Ok(system) => system,
        Err(error) => {
            let remedy = "until then guests run on the software engine (`--hypervisor engine`)";
            return vec![Finding::new("KVM", error.to_string(), Verdict::Missing).remedy(remedy)];
        }
    };
    let value = |number| system.check_extension(number).unwrap_or(0);
    let mut findings = vec![Finding::new("KVM", mmu(), Verdict::Good)];

    let ring = value(cap::DIRTY_LOG_RING_ACQ_REL).max(value(cap::DIRTY_LOG_RING));
    findings.push(if ring == 0 {
        Finding::new("dirty rings", "none", Verdict::Caveat)
            .remedy("tracking uses bitmaps; Linux 5.11 (x86) and 6.1 (arm64) have rings")
    } else {
        Finding::new("dirty rings", format!("up to {} entries a vCPU", ring / 16), Verdict::Good)
    });
    let backup = value(cap::DIRTY_LOG_RING_WITH_BITMAP);
    findings.push(match (backup, std::env::consts::ARCH) {
        (0, "x86_64") => Finding::new("backup bitmap", "none: on x86-64 no writer needs it", Verdict::Good),
        (0, _) => Finding::new("backup bitmap", "none", Verdict::Caveat)
            .remedy("a ring alone loses what the interrupt controller writes; tracking uses bitmaps"),
        _ => Finding::new("backup bitmap", "one a memslot", Verdict::Good),
    });
    let manual = value(cap::MANUAL_DIRTY_LOG_PROTECT2);
    findings.push(if manual == 0 {
        Finding::new("manual protect", "none", Verdict::Caveat)
            .remedy("only rings can be used; Linux 5.0 has it")
    } else {
        Finding::new("manual protect", format!("modes {manual:#x}"), Verdict::Good)
    });
    findings
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

fn huge_pages() -> Finding {
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let text = fs::read_to_string(path).unwrap_or_default();
    let chosen = text.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned();
    Finding::new("huge pages for guest memory", chosen, Verdict::Good)
}

fn swap() -> Finding {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    match text.lines().count().saturating_sub(1) {
        0 => Finding::new("swap", "none", Verdict::Good),
        areas => Finding::new("swap", format!("{areas} areas"), Verdict::Caveat)
            .remedy("guest memory that is swapped out makes a pause as long as the disk takes"),
    }
}
