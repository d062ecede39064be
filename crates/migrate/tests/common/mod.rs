//! A guest that is a thread, on both sides of a migration, and the link between them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by the test programs, each of which uses a part"
)]

pub mod engine;
pub mod guest;
pub mod proxy;
pub mod run;
