//! The epoch protocol as a specification, checked in every state that it can reach.
//!
//! [`epoch`] is who owns a dirty page: rings, backup bitmap, the monitor's log, epochs that are harvested, copied, sealed,
//! committed, rolled back or lost in a crash. [`handover`] is who waits for whom while vCPUs with full rings are being
//! stopped. Both are small on purpose: two pages, two vCPUs and a ring of two entries have every order of events that
//! larger ones have.
//!
//! Each rule of the protocol can be broken ([`epoch::Broken`], [`handover::Broken`]), and the model then has to find a history
//! that loses a page, or waits for ever: a specification that allows everything would pass, too.
//!
//! `cargo run -p ringmark-model` checks all of it and prints the number of states.

pub mod checks;
pub mod epoch;
pub mod handover;
