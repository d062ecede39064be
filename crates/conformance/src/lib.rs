//! The behaviour suite of KVM dirty tracking: 95 cases, each a question to a kernel and the answer it must give.
//!
//! The same cases ask the software engine (with the rules of x86 or arm64) and the real `/dev/kvm` of this host. A case
//! is written once, against [`Target`], and says which kernel function its answer comes from; [`cases`] lists them all.
//! Each runs in a VM of its own, on its own thread, within a time limit.
//!
//! Every answer ends in one of four ways. *Passed*: the documented one. *Failed*: another one. *Skipped*: the case does
//! not apply here, and says why. *Deviation*: the answer is not the documented one but the one that this very kernel is
//! known to give ([`DEVIATIONS`]); the case stays as it is, and any third answer fails.
//!
//! Some answers may legally be larger on a real kernel: it may report pages that nobody wrote. Cases that compare
//! reports accept more than they expect there, and say so in their detail, but never less.
//!
//! ```no_run
//! use ringmark_conformance::{Filter, Rules, TargetKind, run_each};
//!
//! let kind = TargetKind::Engine { rules: Rules::Arm64 };
//! let report = run_each(kind, &Filter::default(), |case| println!("{} {:?}", case.id, case.result))?;
//! assert_eq!(report.failed, 0);
//! # Ok::<(), ringmark_conformance::OpenError>(())
//! ```

mod bench;
mod case;
mod cases;
mod cpu;
mod deviations;
mod engine;
mod facts;
mod fork;
mod kvm;
mod quiet;
mod ram;
mod report;
mod rig;
mod run;
mod target;
mod verdict;

pub use case::{Case, Need};
pub use cases::cases;
pub use deviations::{DEVIATIONS, Deviation, Kernel};
pub use engine::EngineTarget;
pub use facts::{Facts, Rules};
pub use report::{CaseReport, Outcome, Report};
pub use run::{Filter, OpenError, TargetKind, open, run, run_case, run_case_within, run_each};
pub use target::{
    Dest, Exit, Kicker, MapRequest, Mapping, Probe, Program, Source, Target, TestDevice, TestVcpu, TestVm,
    Wish,
};
pub use verdict::{Mismatch, Stop, Tried, Unsupported};
