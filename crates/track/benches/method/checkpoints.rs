//! Whole checkpoints, with more and more pages written by the kernel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, Gfn, Memslot, SlotTable};
use ringmark_engine::Writer;
use ringmark_track::{BoxError, RingFull, Tracker, Vcpus, Wish};
use vm_memory::{Bytes, MemoryRegionAddress};

use super::engine::Guest;
use super::{DATA, PAGE, PAGES, best};

/// Less than a hundredth of memory: here rings and bitmaps cost about the same, all else being equal.
const WRITTEN: u64 = 1_000;
const REPEAT: usize = 50;
/// One page in so many is written again while a round is copied.
const AGAIN: usize = 20;

/// vCPUs that are written to by hand.
struct Still;

impl Vcpus for Still {
    fn stop(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
    fn resume(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Rig {
    tracker: Tracker,
    ring: Option<RingFull>,
    guest: Guest,
    copies: Vec<u8>,
}

impl Rig {
    fn new(wish: Wish) -> Self {
        let guest = Guest::new(wish);
        let slots = SlotTable::new([Memslot { id: DATA, base: Gfn(0), npages: PAGES }]).unwrap();
        let mut tracker = Tracker::new(Arc::new(guest.vm.clone()), slots, guest.method).unwrap();
        let ring = guest.vcpu.ring_memory().map(|memory| tracker.add_ring(0, memory).unwrap());
        tracker.arm().unwrap();
        let mut rig = Self { tracker, ring, guest, copies: vec![1; (PAGES * PAGE) as usize] };
        rig.checkpoint(&[], 0);
        rig
    }

    /// One checkpoint, of whose pages the kernel writes the first `kernel`: the time of the rounds without copying, that of
    /// the pause, and how long the pause's copying took.
    fn checkpoint(&mut self, pages: &[u64], kernel: usize) -> [Duration; 3] {
        let Self { tracker, ring, guest, copies } = self;
        let mut write = |step: usize| {
            for (at, page) in pages.iter().enumerate().step_by(step) {
                if at < kernel {
                    guest.vm.device_write(page * PAGE, &[1], Writer::VgicTable).unwrap();
                } else if guest.vcpu.store(page * PAGE, &[1]).is_err() {
                    ring.as_ref().unwrap().drain().unwrap();
                    guest.vcpu.store(page * PAGE, &[1]).unwrap();
                }
            }
        };
        let memory = &guest.memory;
        let mut copy = |pages: &DirtyPages| {
            for (place, (_, page)) in pages.iter().enumerate() {
                let place = place * PAGE as usize;
                memory
                    .read_slice(&mut copies[place..place + PAGE as usize], MemoryRegionAddress(page * PAGE))
                    .unwrap();
            }
        };
        write(1);
        let mut epoch = tracker.open().unwrap();
        let mut rounds = Duration::ZERO;
        for again in [AGAIN, AGAIN * AGAIN] {
            let begun = Instant::now();
            let pages = epoch.round().unwrap();
            rounds += begun.elapsed();
            copy(&pages);
            write(again);
        }
        let begun = Instant::now();
        let cut = epoch.cut().stop(Still).unwrap().save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
        let copying = Instant::now();
        copy(cut.pages());
        let copying = copying.elapsed();
        let epoch = cut.resume().unwrap();
        let pause = begun.elapsed();
        epoch.commit();
        [rounds, pause, copying]
    }

    fn measure(&mut self, pages: &[u64], kernel: usize) -> [Duration; 3] {
        let runs: Vec<_> = (0..REPEAT).map(|_| self.checkpoint(pages, kernel)).collect();
        [0, 1, 2].map(|part| best(runs.iter().map(|run| run[part])))
    }
}

pub(crate) fn print() {
    println!(
        "\nthe engine, a checkpoint of {WRITTEN} written pages, in µs: rounds without copying and pause, by the share of pages"
    );
    println!("that the kernel writes while the guest runs");
    println!(
        "     share   ring+bitmap: rounds, pause    bitmap: rounds, pause    the pause saves, the rounds cost more"
    );
    let mut order: Vec<u64> = (0..PAGES).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    let pages = &order[..WRITTEN as usize];
    let mut rings = Rig::new(Wish::Ring { entries: None });
    let mut bitmaps = Rig::new(Wish::Bitmap);
    let (mut alone, mut doubled) = (None, None);
    for per_mille in [0, 1, 2, 5, 10, 20, 50, 100, 250, 500] {
        let kernel = pages.len() * per_mille / 1000;
        let [ring_rounds, ring_pause, _] = rings.measure(pages, kernel).map(|time| time.as_secs_f64() * 1e6);
        let [bitmap_rounds, bitmap_pause, _] =
            bitmaps.measure(pages, kernel).map(|time| time.as_secs_f64() * 1e6);
        let (saved, price) = (ring_pause - bitmap_pause, bitmap_rounds - ring_rounds);
        println!(
            "{:>8.1} % {ring_rounds:>16.0} {ring_pause:>8.0} {bitmap_rounds:>15.0} {bitmap_pause:>8.0} {saved:>20.0} {price:>12.0}",
            per_mille as f64 / 10.0
        );
        let alone = *alone.get_or_insert(ring_pause);
        if ring_pause >= 2.0 * alone {
            doubled.get_or_insert(per_mille);
        }
    }
    if let Some(per_mille) = doubled {
        println!(
            "with a share of {:.1} % the backup bitmap has doubled the pause; bitmaps are advised from {:.0} %",
            f64::from(per_mille as u32) / 10.0,
            ringmark_track::BITMAP_SHARE * 100.0
        );
    }
}
