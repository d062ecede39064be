//! Rings over memory in huge pages: with a backup bitmap every page is logged, without one few are.

use std::collections::BTreeSet;

use ringmark_abi::mem;
use ringmark_kvm::{Power, System};

use crate::guest::*;
use crate::memory::{Memory, system};

const PAGES: u64 = 2048;

/// Writes every page of a slot in huge pages, and says how many the ring has.
fn logged(system: &System, tracking: Tracking) -> usize {
    let memory = Memory::huge(PAGES * PAGE)
        .expect("this kernel gives huge pages to whoever asks (/sys/kernel/mm/transparent_hugepage/enabled)");
    let mut guest = Guest::new(system, tracking);
    guest.add_memory(1, DATA, memory, mem::LOG_DIRTY_PAGES);
    let mut vcpu = guest.vcpu(0, Power::On);
    let mut ring = harvester(&vcpu);
    touch(&mut vcpu, DATA, PAGES, 7);
    assert!((0..PAGES).all(|page| guest.memory(1).read(page * PAGE) == 7));
    harvest(&mut ring, &guest).into_iter().collect::<BTreeSet<_>>().len()
}

/// `user_mem_abort` takes a memslot's bitmap for the sign that logging is on. Where there is none it maps a block of memory
/// writable and logs the one page of it that was written; so rings without the backup bitmap are no way to track an arm64
/// guest, unless its memory has small pages only.
#[test]
fn a_ring_alone_loses_pages_of_huge_page_memory() {
    let Some(system) = system("a_ring_alone_loses_pages_of_huge_page_memory") else { return };
    let with_bitmap = logged(&system, Tracking::RingWithBitmap(4096));
    let alone = logged(&system, Tracking::Ring(4096));
    println!(
        "{PAGES} pages written in huge pages: {with_bitmap} logged with the backup bitmap, {alone} without"
    );
    assert_eq!(with_bitmap as u64, PAGES);
    assert!((alone as u64) < PAGES, "this kernel logs every page without a bitmap too");
}
