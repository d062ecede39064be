//! The cases, a file for each subject.

/// One line of a case table.
macro_rules! case {
    ($id:literal, $name:literal, [$($need:ident),+], $run:path, $source:literal, $proves:literal) => {
        $crate::case::Case {
            id: $id,
            name: $name,
            proves: $proves,
            source: $source,
            needs: &[$($crate::case::Need::$need),+],
            run: $run,
        }
    };
}

mod backup;
mod bitmap;
mod caps;
mod clear;
mod engine_only;
mod full;
mod huge;
mod its;
mod its_errors;
mod its_rig;
mod manual;
mod mapping;
mod misuse;
mod protocol;
mod reset;
mod ring;
mod ring_caps;
mod signals;
mod slot_changes;
mod slots;
mod vcpu_ioctls;

use std::sync::LazyLock;

use crate::case::Case;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let groups = [
        backup::CASES,
        bitmap::CASES,
        caps::CASES,
        clear::CASES,
        engine_only::CASES,
        full::CASES,
        huge::CASES,
        its::CASES,
        its_errors::CASES,
        manual::CASES,
        mapping::CASES,
        misuse::CASES,
        protocol::CASES,
        reset::CASES,
        ring::CASES,
        ring_caps::CASES,
        signals::CASES,
        slot_changes::CASES,
        slots::CASES,
        vcpu_ioctls::CASES,
    ];
    let mut cases = groups.concat();
    cases.sort_by_key(|case| case.id);
    cases
});

/// Every case, in the order of their ids.
#[must_use]
pub fn cases() -> &'static [Case] {
    &CASES
}
