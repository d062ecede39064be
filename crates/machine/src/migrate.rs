//! Live migration of machines.
//!
//! ```text
//!  Machine::migrate ── Leaving (Departing) ──────▶ Arrivals (Arriving) ──▶ Coming (Arrival) ──▶ Machine
//!    Ram, Halt, MachineSaved      needs              all but memory and state   pages, state
//! ```
//!
//! A machine leaves under the lock of its checkpoints: there is one of either at a time. Its state travels as an image has it,
//! so that a machine that arrives and one that is restored are made in the same way.

mod arrive;
mod depart;
mod error;
mod needs;

pub use arrive::{ArrivalOptions, Arrivals, Coming};
pub use error::MigrateError;
