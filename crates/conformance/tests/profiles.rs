//! Every case against hosts that differ from the usual ones: page sizes, a page-modification log, one address space.

use std::sync::Arc;

use ringmark_conformance::{EngineTarget, Outcome, Target, cases, run_case};
use ringmark_dirty::PageSize;
use ringmark_engine::Profile;

fn all_pass(profile: Profile) {
    let target: Arc<dyn Target> = Arc::new(EngineTarget::with_profile(profile));
    let failed: Vec<String> = cases()
        .iter()
        .map(|case| run_case(&target, case))
        .filter(|report| report.result == Outcome::Failed)
        .map(|report| format!("{} {}: {}", report.id, report.name, report.detail))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_page_modification_log() {
    all_pass(Profile::x86().pml(true));
}

#[test]
fn one_address_space() {
    all_pass(Profile::x86().address_spaces(1));
}

#[test]
fn pages_of_16_kib() {
    all_pass(Profile::arm64().page_size(PageSize::new(16 << 10).expect("a power of two")));
}

#[test]
fn pages_of_64_kib() {
    all_pass(Profile::arm64().page_size(PageSize::new(64 << 10).expect("a power of two")));
}
