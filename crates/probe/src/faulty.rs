//! A VM whose calls fail as those of known kernels do.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm};
use ringmark_dirty::{FLAG_RESET, PageSize, RingMemory, SlotId};

use crate::Fault;

/// Makes a reset that a signal interrupts, of as many entries as are given; what it returned.
pub type Interrupt = Box<dyn Fn(&dyn Vm, u32) -> Result<u32, Errno> + Send + Sync>;

/// A VM, of KVM or the engine, between which and its user faults can be [injected](Self::inject).
///
/// Beside the one that is asked for it has no fault of its own: calls are passed on, and a count that was withheld is
/// given with the next reset.
pub struct Faulty {
    vm: Arc<dyn Vm>,
    interrupt: Interrupt,
    rings: Mutex<Vec<Arc<dyn RingMemory>>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Fault>,
    happened: Vec<Fault>,
    /// Entries that were reset and not yet counted to the caller.
    withheld: u32,
    /// Entries that were handed back and that the last whole reset did not take: those of a ring that was overrun, behind
    /// the one at which the kernel waits.
    stuck: u32,
}

impl Faulty {
    /// `vm`, whose resets are interrupted by `interrupt`.
    #[must_use]
    pub fn new(vm: Arc<dyn Vm>, interrupt: Interrupt) -> Self {
        Self { vm, interrupt, rings: Mutex::default(), state: Mutex::default() }
    }

    /// Makes a vCPU's ring known, by whose entries it is seen whether a reset has anything to do.
    pub fn add_ring(&self, ring: Arc<dyn RingMemory>) {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).push(ring);
    }

    /// Lets `fault` happen at the next call that it fits.
    pub fn inject(&self, fault: Fault) {
        self.state().waiting.push(fault);
    }

    /// Takes back the faults that have not happened.
    pub fn clear(&self) {
        self.state().waiting.clear();
    }

    /// The faults that have happened since the last call.
    #[must_use]
    pub fn take_happened(&self) -> Vec<Fault> {
        std::mem::take(&mut self.state().happened)
    }

    /// The first waiting fault that `fits`, which happens now.
    fn take(&self, fits: impl Fn(Fault) -> bool) -> Option<Fault> {
        let mut state = self.state();
        let at = state.waiting.iter().position(|&fault| fits(fault))?;
        let fault = state.waiting.remove(at);
        state.happened.push(fault);
        Some(fault)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries that are handed back. Exact, for only the caller of a reset hands entries back.
    fn handed_back(&self) -> u32 {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = rings.iter().flat_map(|ring| ring.entries());
        u32::try_from(entries.filter(|entry| entry.flags() & FLAG_RESET != 0).count()).unwrap_or(u32::MAX)
    }

    /// A reset that nothing befalls.
    fn reset(&self) -> Result<u32, Errno> {
        let count = self.vm.reset_dirty_rings()?;
        let stuck = self.handed_back();
        self.state().stuck = stuck;
        Ok(count)
    }

    /// A reset that is interrupted before the last of `entries`, all of which it would take, and says so by its count: a
    /// kernel looks for a signal after the last entry too, and then leaves with the right count and the last pages
    /// unprotected, of which nobody could know.
    fn interrupted(&self, entries: u32) -> Result<u32, Errno> {
        let count = (self.interrupt)(&*self.vm, entries)?;
        if count < entries {
            return Ok(count);
        }
        Ok(self.withhold(count))
    }

    fn withhold(&self, count: u32) -> u32 {
        let said = count / 2;
        self.state().withheld += count - said;
        said
    }
}

impl Vm for Faulty {
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
    unsafe fn set_user_memory_region(&self, region: &MemoryRegion) -> Result<(), Errno> {
        // SAFETY: what this function asks of its caller is what that one asks.
        unsafe { self.vm.set_user_memory_region(region) }
    }

    fn set_memslot_flags(&self, slot: SlotId, flags: u32) -> Result<(), Errno> {
        match self.take(|fault| fault == Fault::RefusedFlags) {
            Some(_) => Err(Errno::ENOMEM),
            None => self.vm.set_memslot_flags(slot, flags),
        }
    }

    fn get_dirty_log(&self, slot: SlotId, bitmap: &mut [u64]) -> Result<(), Errno> {
        self.vm.get_dirty_log(slot, bitmap)?;
        match self.take(|fault| fault == Fault::FailedDirtyLog) {
            Some(_) => {
                bitmap.fill(0);
                Err(Errno::EFAULT)
            }
            None => Ok(()),
        }
    }

    fn clear_dirty_log(&self, slot: SlotId, first: u64, pages: u32, bitmap: &[u64]) -> Result<(), Errno> {
        match self.take(|fault| fault == Fault::FailedClear) {
            Some(_) => Err(Errno::ENOMEM),
            None => self.vm.clear_dirty_log(slot, first, pages, bitmap),
        }
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        let withheld = std::mem::take(&mut self.state().withheld);
        let is_idle = !self.state().waiting.iter().any(|&fault| is_of_reset(fault));
        // A fault at a reset that has nothing to do would be none.
        let entries = if is_idle { 0 } else { self.handed_back().saturating_sub(self.state().stuck) };
        let fault = if entries == 0 { None } else { self.take(is_of_reset) };
        let count = match fault {
            Some(Fault::RefusedReset) => {
                self.state().withheld += withheld;
                return Err(Errno::EIO);
            }
            Some(Fault::InterruptedReset) => self.interrupted(entries)?,
            Some(Fault::ShortCount) => {
                let count = self.reset()?;
                self.withhold(count)
            }
            Some(Fault::SlowReset(time)) => {
                thread::sleep(time / 2);
                let count = self.reset()?;
                thread::sleep(time / 2);
                count
            }
            _ => self.reset()?,
        };
        Ok(count + withheld)
    }
}

const fn is_of_reset(fault: Fault) -> bool {
    matches!(fault, Fault::InterruptedReset | Fault::ShortCount | Fault::RefusedReset | Fault::SlowReset(_))
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("vm", &self.vm).field("state", &self.state()).finish_non_exhaustive()
    }
}
