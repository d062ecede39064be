//! The monitor's own writes: no write is lost, none lies outside.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;
use ringmark_dirty::{DirtyPages, PageSize};
use ringmark_track::{Collected, MonitorLog, Source};
use support::{PAGE, page_size, slot, table};

fn harvested(source: &mut impl Source, slots: &ringmark_dirty::SlotTable) -> DirtyPages {
    let mut into = Collected::new(slots);
    source.harvest(&mut into).unwrap();
    into.reported().clone()
}

proptest! {
    #[test]
    fn marks_cover_exactly_the_pages_of_the_bytes(
        npages in 1u64..200,
        marks in prop::collection::vec((0u64..210 * PAGE, prop_oneof![0u64..3 * PAGE, Just(u64::MAX)]), 0..20),
    ) {
        let slots = table(&[npages, 3]);
        let log = MonitorLog::new(&slots, page_size());
        let mut naive = vec![false; usize::try_from(npages).unwrap()];
        for &(offset, len) in &marks {
            log.slot(slot(0)).unwrap().mark(offset, len);
            let end = offset.saturating_add(len).min(npages * PAGE);
            for byte in (offset..end).step_by(512).chain((offset < end).then(|| end - 1)) {
                naive[usize::try_from(byte / PAGE).unwrap()] = true;
            }
        }
        for (page, &dirty) in (0..).zip(&naive) {
            prop_assert_eq!(log.slot(slot(0)).unwrap().is_marked(page * PAGE + 7), dirty);
        }
        let pages = harvested(&mut log.source(), &slots);
        let expected: Vec<_> = (0..npages).filter(|&p| naive[usize::try_from(p).unwrap()]).map(|p| (slot(0), p)).collect();
        prop_assert_eq!(pages.iter().collect::<Vec<_>>(), expected);
        prop_assert!(harvested(&mut log.source(), &slots).is_empty());
    }
}

#[test]
fn pages_are_as_large_as_the_hosts() {
    let size = PageSize::new(65536).unwrap();
    let slots = table(&[8]);
    let log = MonitorLog::new(&slots, size);
    log.slot(slot(0)).unwrap().mark(3 * size.bytes() - 1, 2);
    let pages = harvested(&mut log.source(), &slots);
    assert_eq!(pages.iter().collect::<Vec<_>>(), [(slot(0), 2), (slot(0), 3)], "pages of {size}");
}

#[test]
fn a_guard_marks_when_it_goes_however_that_is() {
    let slots = table(&[8]);
    let log = MonitorLog::new(&slots, page_size());
    let log_of_slot = log.slot(slot(0)).unwrap();
    let guard = log_of_slot.write(PAGE - 1, 2);
    assert!(harvested(&mut log.source(), &slots).is_empty());
    drop(guard);
    assert_eq!(harvested(&mut log.source(), &slots).len(), 2);
    let unwound = std::panic::catch_unwind(|| {
        let _guard = log_of_slot.write(5 * PAGE, 1);
        panic!("in the middle of a write (this panic is the test)");
    });
    assert!(unwound.is_err() && log_of_slot.is_marked(5 * PAGE));
}

/// Writers change a value and mark it; the collector harvests and reads. The last value it has read of each page must
/// be the last that was written.
#[test]
fn concurrent_writes_are_seen_or_harvested_again() {
    const PAGES: usize = 64;
    let slots = table(&[PAGES as u64]);
    let log = MonitorLog::new(&slots, page_size());
    let memory: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    let mut copy = vec![0; PAGES];
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2usize)
            .map(|writer| {
                let (log, memory) = (log.slot(slot(0)).unwrap().clone(), &memory);
                scope.spawn(move || {
                    for round in 1..=20_000u64 {
                        let page = (round as usize * 7 + writer * 13) % (PAGES / 2) * 2 + writer;
                        memory[page].store(round, Ordering::Relaxed);
                        log.mark(page as u64 * PAGE, 8);
                    }
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut source = log.source();
            loop {
                let last = done.load(Ordering::Acquire);
                for (_, page) in harvested(&mut source, &slots).iter() {
                    let page = usize::try_from(page).unwrap();
                    copy[page] = memory[page].load(Ordering::Relaxed);
                }
                if last {
                    break;
                }
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Release);
        collector.join().unwrap();
    });
    let truth: Vec<_> = memory.iter().map(|value| value.load(Ordering::Relaxed)).collect();
    assert_eq!(copy, truth);
}

#[cfg(feature = "vm-memory")]
mod vm_memory {
    use ringmark_track::{MonitorLog, SlotLog};
    use vm_memory::mmap::MmapRegionBuilder;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};

    use super::{PAGE, harvested, page_size, slot, table};

    #[test]
    fn guest_memory_marks_what_is_written_through_it() {
        let slots = table(&[16, 16]);
        let log = MonitorLog::new(&slots, page_size());
        let regions = [0u16, 1].map(|id| {
            let bitmap = log.slot(slot(id)).unwrap().clone();
            let region = MmapRegionBuilder::new_with_bitmap(16 * 4096, bitmap)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
                .build()
                .unwrap();
            GuestRegionMmap::new(region, GuestAddress(u64::from(id) * 16 * PAGE)).unwrap()
        });
        let memory = GuestMemoryMmap::<SlotLog>::from_regions(regions.into()).unwrap();

        memory.write_obj(1u8, GuestAddress(5 * PAGE)).unwrap();
        memory.write_slice(&[7; 20], GuestAddress(15 * PAGE + 4090)).unwrap();
        let slice = memory.get_slice(GuestAddress(20 * PAGE), 3 * 4096).unwrap();
        slice.subslice(4096 + 10, 100).unwrap().write_slice(&[1; 100], 0).unwrap();
        let mut buffer = [0; 8];
        memory.read_slice(&mut buffer, GuestAddress(9 * PAGE)).unwrap();

        let pages: Vec<_> =
            harvested(&mut log.source(), &slots).iter().map(|(slot, page)| (slot.id(), page)).collect();
        assert_eq!(pages, [(0, 5), (0, 15), (1, 0), (1, 5)]);
    }
}
