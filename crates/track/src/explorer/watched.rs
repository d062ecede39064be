//! The engine's VM, in whose ioctls the rest of the world gets its turn.

use std::fmt;
use std::sync::Arc;

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm};
use ringmark_dirty::{FLAG_RESET, PageSize, RingMemory, SlotId};

use super::guest::{Shared, Turn};

pub(super) struct Watched {
    pub(super) vm: ringmark_engine::Vm,
    pub(super) world: Shared,
    pub(super) rings: Vec<Arc<dyn RingMemory>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    fn around<T>(&self, call: impl FnOnce() -> T) -> T {
        self.world.turn(Turn::Inside);
        let result = call();
        self.world.turn(Turn::Inside);
        result
    }

    /// A signal comes in this reset: after one of its entries, not after the last, which no count shows and only
    /// blocked signals prevent.
    fn interrupt(&self) {
        let marked = self.rings.iter().flat_map(|ring| ring.entries());
        let marked = marked.filter(|entry| entry.flags() & FLAG_RESET != 0).count();
        let mut world = self.world.lock();
        if marked > 1 && std::mem::take(&mut world.signal) {
            let after = world.schedule.choose(marked.min(4));
            self.vm.faults().signal_next_reset_after(u32::try_from(after).unwrap_or(0));
        }
    }
}

impl Vm for Watched {
    fn page_size(&self) -> PageSize {
        self.vm.page_size()
    }

    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.vm.check_extension(cap)
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.vm.enable_cap(cap)
    }

    #[expect(unsafe_code, reason = "the trait's own")]
    unsafe fn set_user_memory_region(&self, _: &MemoryRegion) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn set_memslot_flags(&self, slot: SlotId, flags: u32) -> Result<(), Errno> {
        self.around(|| self.vm.set_memslot_flags(slot, flags))
    }

    fn get_dirty_log(&self, slot: SlotId, bitmap: &mut [u64]) -> Result<(), Errno> {
        self.around(|| self.vm.get_dirty_log(slot, bitmap))
    }

    fn clear_dirty_log(&self, slot: SlotId, first: u64, pages: u32, bitmap: &[u64]) -> Result<(), Errno> {
        self.around(|| self.vm.clear_dirty_log(slot, first, pages, bitmap))
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        self.around(|| {
            self.interrupt();
            self.vm.reset_dirty_rings()
        })
    }
}
