//! Answers of particular kernels that differ from the documented ones.
//!
//! A case is never bent to fit a kernel. What a kernel answers instead is written down here, with the evidence, and
//! counts only as long as it answers exactly that.

use crate::case::Case;
use crate::facts::Facts;
use crate::verdict::Mismatch;

/// A known answer of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// Which kernels.
    pub kernel: Kernel,
    /// The case that finds it.
    pub case: &'static str,
    /// The question of the case that is answered differently.
    pub what: &'static str,
    /// The answer, as the case's report prints it.
    pub observed: &'static str,
    /// How it is known.
    pub evidence: &'static str,
}

/// A set of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// A word of [`Facts::mmu`] or [`Facts::kernel`].
    pub word: &'static str,
    /// The first release.
    pub since: (u32, u32),
    /// The first release no longer in the set.
    pub until: Option<(u32, u32)>,
}

impl Kernel {
    /// Whether `facts` describe one of the set.
    #[must_use]
    pub fn matches(&self, facts: &Facts) -> bool {
        let named = facts.mmu.contains(self.word) || facts.kernel.contains(self.word);
        let released =
            facts.release.is_some_and(|r| r >= self.since && self.until.is_none_or(|until| r < until));
        facts.real && named && released
    }
}

/// Every deviation known.
pub const DEVIATIONS: &[Deviation] = &[];

/// The known deviation that explains `mismatch`, if there is one.
pub(crate) fn known(facts: &Facts, case: &Case, mismatch: &Mismatch) -> Option<&'static Deviation> {
    find(DEVIATIONS, facts, case.id, mismatch)
}

fn find<'d>(list: &'d [Deviation], facts: &Facts, id: &str, mismatch: &Mismatch) -> Option<&'d Deviation> {
    list.iter().find(|known| {
        known.case == id
            && known.what == mismatch.what
            && known.observed == mismatch.observed
            && known.kernel.matches(facts)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineTarget, Rules, Target};

    const LIST: &[Deviation] = &[Deviation {
        kernel: Kernel { word: "kvm_pvm", since: (6, 18), until: Some((7, 0)) },
        case: "T22",
        what: "entries",
        observed: "[]",
        evidence: "an example",
    }];

    fn facts(release: (u32, u32), mmu: &str) -> Facts {
        let engine = EngineTarget::new(Rules::X86);
        Facts { real: true, release: Some(release), mmu: mmu.into(), ..engine.facts().clone() }
    }

    fn answer(observed: &str) -> Mismatch {
        Mismatch { what: "entries".into(), expected: "[1]".into(), observed: observed.into() }
    }

    #[test]
    fn only_the_observed_answer_of_the_named_kernel_counts() {
        let pvm = "shadow paging, kvm_pvm";
        let found = |facts: &Facts, id, observed| find(LIST, facts, id, &answer(observed)).is_some();
        assert!(found(&facts((6, 18), pvm), "T22", "[]"));
        assert!(!found(&facts((6, 18), pvm), "T22", "[2]"), "a third answer");
        assert!(!found(&facts((6, 18), pvm), "T24", "[]"), "another case");
        assert!(!found(&facts((6, 18), "EPT"), "T22", "[]"), "another kernel");
        assert!(!found(&facts((6, 17), pvm), "T22", "[]"), "an older one");
        assert!(!found(&facts((7, 0), pvm), "T22", "[]"), "a newer one");
        let engine = Facts { real: false, ..facts((6, 18), pvm) };
        assert!(!found(&engine, "T22", "[]"), "the engine has no deviations");
    }
}
