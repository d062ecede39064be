//! The engine against the kernel's rules, one file an area.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

mod bitmap;
mod capabilities;
mod common;
mod faults;
mod marking;
mod memslots;
mod modification_log;
mod oracle;
mod ring;
mod strict;
mod torture;
