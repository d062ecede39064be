//! A store as its users see it, whole and in every kind of trouble.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod corruption;
mod crash;
mod failing_backend;
mod failing_disk;
mod full_disk;
mod gathering;
mod oracle;
mod power_cut;
mod stores;
mod writers;
