//! What is arm64's own, end to end: an interrupt controller that writes its tables to guest memory with no vCPU running.
//!
//! On the engine, whose rules are arm64's, on every host; on /dev/kvm where that is arm64's.

#![allow(clippy::unwrap_used, reason = "a test ends where anything fails")]

mod common;
#[path = "arm64/kernel.rs"]
mod kernel;
#[path = "arm64/migration.rs"]
mod migration;
#[path = "common/moving.rs"]
mod moving;
#[path = "arm64/order.rs"]
mod order;
#[path = "arm64/tables.rs"]
mod tables;
#[path = "arm64/translation.rs"]
mod translation;
