//! A case as data.

use serde::Serialize;

use crate::bench::Bench;
use crate::facts::{Facts, Rules};
use crate::verdict::Verdict;

/// What a case needs from a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Need {
    /// Any kernel with KVM (`N`).
    Nothing,
    /// Dirty rings (`R`).
    Ring,
    /// Dirty rings, used without the backup bitmap (`RO`).
    RingOnly,
    /// The backup bitmap (`W`).
    WithBitmap,
    /// VGICv3 and ITS (`A`).
    Gic,
    /// x86 rules (`X`).
    X86,
    /// arm64 rules.
    Arm64,
    /// The software engine: unsafe, or a matter of timing, on a real kernel (`S`).
    Engine,
    /// A kernel whose reset stops at a pending signal (since Linux 6.16).
    StoppingReset,
    /// A kernel whose reset always finishes (before Linux 6.16).
    FinishingReset,
    /// A kernel that a warning in its log does not bring down: the case provokes one.
    MayWarn,
}

impl Need {
    /// A short mark for tables.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Nothing => "N",
            Self::Ring => "R",
            Self::RingOnly => "RO",
            Self::WithBitmap => "W",
            Self::Gic => "A",
            Self::X86 => "X",
            Self::Arm64 => "arm64",
            Self::Engine => "S",
            Self::StoppingReset => ">=6.16",
            Self::FinishingReset => "<6.16",
            Self::MayWarn => "!",
        }
    }

    /// Why a target of `facts` does not meet the need; `None` if it does.
    #[must_use]
    pub fn unmet(self, facts: &Facts) -> Option<&'static str> {
        let (met, reason) = match self {
            Self::Nothing => (true, ""),
            Self::Ring | Self::RingOnly => (facts.ring, "no dirty rings"),
            Self::WithBitmap => (facts.with_bitmap, "no ring with backup bitmap (arm64's)"),
            Self::Gic => (facts.gic, "no VGICv3 with ITS (arm64's)"),
            Self::X86 => (facts.rules == Rules::X86, "x86 only"),
            Self::Arm64 => (facts.rules == Rules::Arm64, "arm64 only"),
            Self::Engine => (!facts.real, "unsafe or a matter of timing on a real kernel"),
            // The engine plays either.
            Self::StoppingReset => (
                facts.reset_stops_on_signal || !facts.real,
                "this kernel's reset ignores signals (before Linux 6.16)",
            ),
            Self::FinishingReset => (
                !facts.reset_stops_on_signal || !facts.real,
                "this kernel's reset stops at signals (since Linux 6.16)",
            ),
            Self::MayWarn => {
                (!facts.panics_on_warn, "provokes a kernel warning, and this kernel panics on one")
            }
        };
        if met { None } else { Some(reason) }
    }
}

/// One behaviour and the code that asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// `T01` to `T95`.
    pub id: &'static str,
    /// A short name in words joined by hyphens.
    pub name: &'static str,
    /// The behaviour as a sentence.
    pub proves: &'static str,
    /// The kernel function, or document, the behaviour comes from.
    pub source: &'static str,
    /// All that must hold for the case to apply.
    pub needs: &'static [Need],
    pub(crate) run: fn(&Bench) -> Verdict,
}

impl Case {
    /// The first need that a target of `facts` does not meet.
    #[must_use]
    pub fn unmet(&self, facts: &Facts) -> Option<&'static str> {
        self.needs.iter().find_map(|need| need.unmet(facts))
    }
}
