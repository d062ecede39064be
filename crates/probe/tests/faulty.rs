//! Faults that are injected do what they say, and nothing that nobody could notice.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm};
use ringmark_dirty::ring::allocate;
use ringmark_dirty::{Entry, FLAG_RESET, PageSize, Producer, SlotId};
use ringmark_probe::{Fault, Faulty};

const SLOT: SlotId = SlotId::new(0, 0);

/// The rings of two vCPUs, and a signal that comes after so many entries of the next reset.
#[derive(Debug)]
struct Kernel {
    rings: [Producer<Arc<[Entry]>>; 2],
    signal_after: AtomicU32,
}

impl Vm for Kernel {
    fn page_size(&self) -> PageSize {
        PageSize::new(1 << 12).unwrap()
    }

    fn check_extension(&self, _: u32) -> Result<u64, Errno> {
        Ok(0)
    }

    fn enable_cap(&self, _: &EnableCap) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    #[expect(unsafe_code, reason = "the trait's own")]
    unsafe fn set_user_memory_region(&self, _: &MemoryRegion) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn set_memslot_flags(&self, _: SlotId, _: u32) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn get_dirty_log(&self, _: SlotId, _: &mut [u64]) -> Result<(), Errno> {
        Err(Errno::ENXIO)
    }

    fn clear_dirty_log(&self, _: SlotId, _: u64, _: u32, _: &[u64]) -> Result<(), Errno> {
        Err(Errno::ENXIO)
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        let after = self.signal_after.swap(u32::MAX, Ordering::SeqCst);
        let next = || self.rings.iter().find_map(Producer::reset_next);
        Ok((0..after).map_while(|_| next()).map(|_| 1).sum())
    }
}

/// An overrun ring holds entries that no reset takes. They are none of those before the last of which a signal comes: after
/// the last that is taken a reset has the right count, and what it left writable nobody would know of.
#[test]
fn an_interrupted_reset_has_a_short_count_although_entries_are_stuck() {
    for last in [false, true] {
        let memory: [Arc<[Entry]>; 2] = std::array::from_fn(|_| allocate(128).into());
        let rings = memory.clone().map(|memory| Producer::new(memory, 64).unwrap());
        let kernel = Arc::new(Kernel { rings, signal_after: AtomicU32::new(u32::MAX) });
        let signalled = Arc::clone(&kernel);
        let faulty = Faulty::new(
            Arc::clone(&kernel) as _,
            Box::new(move |vm, entries| {
                signalled.signal_after.store(if last { entries - 1 } else { 0 }, Ordering::SeqCst);
                vm.reset_dirty_rings()
            }),
        );
        memory.iter().for_each(|memory| faulty.add_ring(Arc::new(Arc::clone(memory))));
        // The kernel waits at entry 0.
        (5..9).for_each(|n| memory[0][n].set_flags(FLAG_RESET));
        assert_eq!(faulty.reset_dirty_rings(), Ok(0));
        for offset in 0..3 {
            kernel.rings[1].push(SLOT, offset);
        }
        memory[1].iter().take(3).for_each(|entry| entry.set_flags(FLAG_RESET));
        faulty.inject(Fault::InterruptedReset);
        let count = faulty.reset_dirty_rings().unwrap();
        assert_eq!(faulty.take_happened(), [Fault::InterruptedReset]);
        assert!(count < 3, "{count} of 3 entries, and nobody knows of the signal");
        assert_eq!(faulty.reset_dirty_rings(), Ok(3 - count));
    }
}
