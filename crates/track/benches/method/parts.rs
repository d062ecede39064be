//! The parts of a harvest, one by one.

use std::time::{Duration, Instant};

use ringmark_abi::{Vm, mem};
use ringmark_dirty::{Gfn, Harvester, Memslot, RingMemory, SlotTable};
use ringmark_track::Wish;

use super::{DATA, PAGES, best};

/// A guest that stores to one page after another.
pub(crate) trait Stores {
    fn vm(&self) -> &dyn Vm;
    fn ring(&self) -> Option<std::sync::Arc<dyn RingMemory>>;
    /// Stores to `count` pages of the slot, each `stride` pages after the one before.
    fn store(&mut self, count: u64, stride: u64);
}

const REPEAT: usize = 9;
const DIRTY: [u64; 4] = [256, 4096, 16_384, 60_000];

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let value = work();
    (begun.elapsed(), value)
}

fn nanos(time: Duration, pages: u64) -> f64 {
    time.as_nanos() as f64 / pages as f64
}

pub(crate) fn print<G: Stores>(name: &str, make: impl Fn(Wish) -> G) {
    println!("\n{name}, dirty ring:    dirty pages, first store (ns), harvest (ns), reset (ns)");
    let slots = SlotTable::new([Memslot { id: DATA, base: Gfn(0), npages: PAGES }]).unwrap();
    let mut ring_cost = Vec::new();
    {
        let mut guest = make(Wish::Ring { entries: None });
        let mut ring = Harvester::new(guest.ring().expect("a ring")).unwrap();
        guest.store(PAGES, 1);
        guest.vm().set_memslot_flags(DATA, mem::LOG_DIRTY_PAGES).unwrap();
        for dirty in DIRTY {
            let (mut first, mut harvest, mut reset) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..REPEAT {
                let stored = timed(|| guest.store(dirty, PAGES / dirty)).0;
                let again = timed(|| guest.store(dirty, PAGES / dirty)).0;
                first.push(stored.saturating_sub(again));
                let (took, count) = timed(|| ring.harvest(&slots).count() as u64);
                assert_eq!(count, dirty);
                harvest.push(took);
                let (took, count) = timed(|| guest.vm().reset_dirty_rings().unwrap());
                assert_eq!(u64::from(count), dirty);
                reset.push(took);
            }
            let [first, harvest, reset] = [first, harvest, reset].map(|times| nanos(best(times), dirty));
            println!("{dirty:>10} {first:>10.0} {harvest:>8.1} {reset:>8.1}");
            ring_cost.push(harvest + reset);
        }
    }
    println!(
        "{name}, stand-alone bitmap:    dirty pages, first store (ns), get (ns), clear (ns), both in all (µs)"
    );
    let mut guest = make(Wish::Bitmap);
    guest.store(PAGES, 1);
    guest.vm().set_memslot_flags(DATA, mem::LOG_DIRTY_PAGES).unwrap();
    let mut words = vec![0; (PAGES / 64) as usize];
    let mut fixed = Vec::new();
    for _ in 0..10 * REPEAT {
        fixed.push(timed(|| guest.vm().get_dirty_log(DATA, &mut words).unwrap()).0);
    }
    let fixed = best(fixed).as_nanos() as f64;
    println!("{:>10} {:>37.1}", 0, fixed / 1e3);
    let mut crossing = None;
    for (dirty, ring) in DIRTY.into_iter().zip(ring_cost) {
        let (mut first, mut get, mut clear) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..REPEAT {
            let stored = timed(|| guest.store(dirty, PAGES / dirty)).0;
            let again = timed(|| guest.store(dirty, PAGES / dirty)).0;
            first.push(stored.saturating_sub(again));
            get.push(timed(|| guest.vm().get_dirty_log(DATA, &mut words).unwrap()).0);
            clear.push(timed(|| guest.vm().clear_dirty_log(DATA, 0, PAGES as u32, &words).unwrap()).0);
        }
        let whole = (best(get.clone()) + best(clear.clone())).as_nanos() as f64;
        let [first, get, clear] = [first, get, clear].map(|times| nanos(best(times), dirty));
        println!("{dirty:>10} {first:>10.0} {get:>8.1} {clear:>8.1} {:>9.1}", whole / 1e3);
        if crossing.is_none() && ring * dirty as f64 > whole {
            crossing = Some(dirty);
        }
    }
    match crossing {
        Some(dirty) => println!(
            "a harvest and reset cost more than get and clear from {dirty} dirty pages of {PAGES} ({:.1} %)",
            dirty as f64 / PAGES as f64 * 100.0
        ),
        None => println!("a harvest and reset cost less than get and clear throughout"),
    }
}
