//! Live migration of machines.
//!
//! ```text
//!  Machine::migrate ── Leaving (Departing) ──────▶ Arrivals (Arriving) ──▶ Coming (Arrival) ──▶ Machine
//!    Ram, Halt, MachineSaved      needs              all but memory and state   pages, state
//! ```
//!
//! A machine leaves under the lock of its checkpoints, and is watched for a prediction under it: there is one of these at a time. Its state travels as an image has it,
//! so that a machine that arrives and one that is restored are made in the same way.

mod arrive;
mod depart;
mod error;
mod needs;
mod predict;
mod seed;

pub use arrive::{ArrivalOptions, Arrivals, Coming};
pub use error::MigrateError;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use needs::Needs;
pub use predict::{ForeseeError, Foreseen, Foresight};
