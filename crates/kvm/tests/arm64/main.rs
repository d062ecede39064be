//! arm64: running, state and interrupts, on the host's KVM.

#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod guest;
mod huge_pages;
mod interrupts;
#[path = "../common/memory.rs"]
mod memory;
mod running;
mod state;
mod tables;
mod tracking;
