//! A few seconds of torture on each hypervisor; `ringmark torture --minutes 5` is the long run.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use ringmark_torture::{Hypervisor, Options, Report, run};

fn torture(hypervisor: Hypervisor, seconds: u64) -> Report {
    let seed = 1;
    let options = Options { seed, time: Duration::from_secs(seconds), hypervisor, iteration: None };
    let report =
        run(&options, &mut |_| {}).unwrap_or_else(|failure| panic!("{failure}\n{}", failure.replay()));
    eprintln!("{report:?}");
    assert_eq!(report.escapes, 0);
    assert!(report.pages_verified > 10_000 && report.iterations > 0, "{report:?}");
    report
}

#[test]
fn the_engine_loses_nothing() {
    // How many iterations fit is a matter of the host; that faults happen in each is not.
    assert!(!torture(Hypervisor::Engine, 8).faults.is_empty());
}

#[test]
fn kvm_loses_nothing() {
    match ringmark_kvm::System::open() {
        Ok(_) => drop(torture(Hypervisor::Kvm, 8)),
        Err(why) => eprintln!("SKIPPED kvm_loses_nothing: no /dev/kvm ({why})"),
    }
}

/// The first iteration of each kind, twice: the same faults are chosen, as far as chance in time lets them happen.
#[test]
fn an_iteration_can_be_repeated() {
    for iteration in [0, 7] {
        let options = Options {
            seed: 7,
            time: Duration::ZERO,
            hypervisor: Hypervisor::Engine,
            iteration: Some(iteration),
        };
        let chosen = || {
            let report = run(&options, &mut |_| {}).unwrap_or_else(|failure| panic!("{failure}"));
            ["abandoned_epoch", "slots_changed", "killed_machine"]
                .map(|kind| report.faults.get(kind).copied())
        };
        assert_eq!(chosen(), chosen(), "iteration {iteration}");
    }
}
