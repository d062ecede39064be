//! Every case against the engine, with the rules of each architecture.

mod support;

use ringmark_conformance::{Rules, TargetKind, open};

fn main() {
    let mut trials = Vec::new();
    for rules in [Rules::X86, Rules::Arm64] {
        let target = open(TargetKind::Engine { rules }).expect("the engine is everywhere");
        trials.extend(support::trials(&target));
    }
    support::conclude(trials).exit();
}
