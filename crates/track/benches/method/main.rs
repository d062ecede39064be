//! What rings and bitmaps cost, and where one overtakes the other: `cargo bench -p ringmark-track --bench method`.
//!
//! First the parts, on the engine and, where there is one, on `/dev/kvm`: the guest's first store to a protected page,
//! harvest and reset of a ring's entries, reading and clearing a bitmap. Then whole checkpoints on the engine, with a growing
//! share of the pages written by the kernel: the measurement behind `ringmark_track::BITMAP_SHARE`. Each figure is the best
//! of several, which is what it costs when nothing else runs.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "figures for people; a benchmark may fail"
)]

mod checkpoints;
mod engine;
#[cfg(target_arch = "x86_64")]
mod kvm;
mod parts;

use std::time::Duration;

use ringmark_dirty::SlotId;

/// The slot whose pages are written.
const DATA: SlotId = SlotId::new(0, 1);
/// Its pages: 512 MiB.
const PAGES: u64 = 1 << 17;
const PAGE: u64 = 4096;

fn best(times: impl IntoIterator<Item = Duration>) -> Duration {
    times.into_iter().min().unwrap()
}

fn main() {
    println!("512 MiB; times a page, in ns, and of a whole call, in µs");
    parts::print("the engine", engine::Guest::new);
    #[cfg(target_arch = "x86_64")]
    match ringmark_kvm::System::open() {
        Ok(system) => parts::print("/dev/kvm", |wish| kvm::Guest::new(&system, wish)),
        Err(why) => println!("\n/dev/kvm: SKIPPED ({why})"),
    }
    checkpoints::print();
}
