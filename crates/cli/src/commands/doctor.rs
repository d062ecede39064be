//! `ringmark doctor`: what this host can do, and what is wrong with it.

mod finding;
mod kernel_faults;
mod kvm;
mod limits;
mod memory;
mod storage;
mod uffd;

use std::process::ExitCode;

use serde_json::json;

use crate::output;
use crate::progress::Spinner;
use finding::{Finding, Verdict};

/// Examines the host. The exit code is 0 for a host that is fit, 1 for one that is usable with caveats and 2 for one
/// without a hypervisor of its own, on which only the engine runs.
pub(crate) fn run(as_json: bool, quiet: bool) -> ExitCode {
    let spinner = Spinner::new(as_json || quiet, "trying what this host can do");
    let findings = examine();
    spinner.finish();
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good);
    if as_json {
        output::json(&json!({ "schema": output::SCHEMA, "verdict": worst, "findings": findings }));
    } else {
        let rows = findings.into_iter().map(Finding::into_row);
        output::line(output::table(&["what", "found", "verdict", "what to do"], &[], rows));
    }
    ExitCode::from(match worst {
        Verdict::Good => 0,
        Verdict::Caveat => 1,
        Verdict::Missing => 2,
    })
}

fn examine() -> Vec<Finding> {
    let mut findings = vec![host()];
    findings.extend(kvm::examine());
    findings.extend(uffd::examine());
    findings.extend(memory::examine());
    findings.extend(limits::examine());
    findings.push(storage::examine());
    findings
}

fn host() -> Finding {
    let name = rustix::system::uname();
    let found = format!(
        "Linux {}, {}, pages of {} KiB",
        name.release().to_string_lossy(),
        name.machine().to_string_lossy(),
        rustix::param::page_size() / 1024
    );
    Finding::good("host", found)
}
