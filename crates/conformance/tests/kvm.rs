//! Every case against the `/dev/kvm` of this host.

mod support;

use libtest_mimic::Trial;
use ringmark_conformance::{TargetKind, cases, open};

fn main() {
    let trials = match open(TargetKind::Kvm) {
        Ok(target) => {
            eprintln!("testing {}", target.facts().kernel);
            support::trials(&target)
        }
        Err(error) => {
            eprintln!("SKIPPED kvm: {error}");
            let skipped = |case: &ringmark_conformance::Case| {
                Trial::test(format!("kvm::{}-{}", case.id, case.name), || Ok(()))
                    .with_ignored_flag(true)
                    .with_kind("skipped: no /dev/kvm")
            };
            cases().iter().map(skipped).collect()
        }
    };
    support::conclude(trials).exit();
}
