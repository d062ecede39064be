//! Torture: random guests under everything that is known to lose pages, and checks that none was lost.
//!
//! A run is a sequence of *iterations*. Each draws from its own random numbers, determined by the run's seed and its own
//! number: a hypervisor's shape, a memory layout, rings or bitmaps, guests, and a schedule of operations and faults. There
//! are two kinds:
//!
//! - a **tracking** iteration stands on [`ringmark_track`] alone, with small guests of [`ringmark_probe`] or of the engine:
//!   epochs are opened, committed and dropped while vCPUs and the monitor write, and the calls below fail as kernels' do.
//!   At every cut a consumer's copy, made from reported pages alone, is compared with all of memory, byte for byte;
//! - a **machine** iteration is a [`ringmark_machine::Machine`] that takes checkpoints into a store that is full, fails
//!   to sync or whose writer is killed, dies, is restored from some image, checks itself and goes on.
//!
//! The *schedule* replays from the seed; *timing* does not: threads and signals interleave as they like. So a failure that
//! was found names its iteration, and [`Options::iteration`] repeats that one until the time is over.
//!
//! ```
//! use std::time::Duration;
//! use ringmark_torture::{Hypervisor, Options, run};
//!
//! let options = Options { seed: 1, time: Duration::from_millis(200), hypervisor: Hypervisor::Engine, iteration: None };
//! let report = run(&options, &mut |_| {})?;
//! assert_eq!(report.escapes, 0);
//! # Ok::<(), Box<ringmark_torture::Failure>>(())
//! ```

mod failure;
mod machines;
mod options;
mod report;
mod run;
mod tally;
mod tracking;

pub use failure::{Failure, Trouble};
pub use options::{Hypervisor, Options};
pub use report::Report;
pub use run::run;
