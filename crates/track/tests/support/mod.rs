//! A scripted VM: answers as told, and records what it was asked.
#![allow(dead_code, unreachable_pub, reason = "shared by the test programs, each of which uses a part")]

pub mod board;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm, mem};
use ringmark_dirty::ring::allocate;
use ringmark_dirty::{Entry, Gfn, Memslot, PageSize, Producer, RingMemory, SlotId, SlotTable};
use ringmark_track::{BoxError, Vcpus};

pub const PAGE: u64 = 4096;

pub fn page_size() -> PageSize {
    PageSize::new(PAGE).unwrap()
}

pub fn slot(id: u16) -> SlotId {
    SlotId::new(0, id)
}

/// Slots 0, 1, … of the given lengths, side by side.
pub fn table(npages: &[u64]) -> SlotTable {
    let mut base = 0;
    SlotTable::new((0..).zip(npages).map(|(id, &npages)| {
        let slot = Memslot { id: slot(id), base: Gfn(base), npages };
        base += npages;
        slot
    }))
    .unwrap()
}

/// The kernel's end of a ring.
pub type Kernel = Arc<Producer<Arc<[Entry]>>>;

/// Arguments of a `KVM_CLEAR_DIRTY_LOG`.
pub type Clear = (SlotId, u64, u32, Vec<u64>);

/// A VM whose answers are set by the test.
#[derive(Default)]
pub struct Script {
    pub caps: Mutex<HashMap<u32, u64>>,
    pub refuse_cap: Mutex<HashMap<u32, Errno>>,
    pub enabled: Mutex<Vec<EnableCap>>,
    pub flags: Mutex<Vec<(SlotId, u32)>>,
    pub refuse_flags: Mutex<Option<(SlotId, Errno)>>,
    pub rings: Mutex<Vec<Kernel>>,
    /// The next reset is cut short after so many entries.
    pub cut_short: Mutex<Option<usize>>,
    /// The next reset counts so many entries that are not there.
    pub surplus: Mutex<u32>,
    /// Called once, before the next reset.
    pub before_reset: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    pub refuse_reset: Mutex<Option<Errno>>,
    pub resets: AtomicU32,
    /// Words that `GET_DIRTY_LOG` gives, by slot.
    pub log: Mutex<HashMap<SlotId, Vec<u64>>>,
    pub refuse_get: Mutex<Option<(SlotId, Errno)>>,
    pub refuse_clear: Mutex<Option<Errno>>,
    pub cleared: Mutex<Vec<Clear>>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl Script {
    pub fn new(caps: &[(u32, u64)]) -> Arc<Self> {
        Arc::new(Self { caps: Mutex::new(caps.iter().copied().collect()), ..Self::default() })
    }

    /// A ring as a vCPU of this VM would have it: the kernel's end, and the memory for the other.
    pub fn ring(&self, entries: u32) -> (Kernel, Arc<dyn RingMemory>) {
        let memory: Arc<[Entry]> = Arc::from(allocate(entries));
        let producer = Arc::new(Producer::new(Arc::clone(&memory), 64).unwrap());
        self.rings.lock().unwrap().push(Arc::clone(&producer));
        (producer, Arc::new(memory))
    }

    /// The slots whose log was switched off and on again since the last call.
    pub fn toggled(&self) -> Vec<SlotId> {
        let flags = std::mem::take(&mut *self.flags.lock().unwrap());
        let pairs = flags.windows(2).filter(|w| w[0] == (w[1].0, 0) && w[1].1 == mem::LOG_DIRTY_PAGES);
        pairs.map(|w| w[0].0).collect()
    }
}

impl Vm for Script {
    fn page_size(&self) -> PageSize {
        page_size()
    }

    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        Ok(self.caps.lock().unwrap().get(&cap).copied().unwrap_or(0))
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        if let Some(&errno) = self.refuse_cap.lock().unwrap().get(&cap.cap) {
            return Err(errno);
        }
        self.enabled.lock().unwrap().push(*cap);
        Ok(())
    }

    #[expect(unsafe_code, reason = "the trait's own")]
    unsafe fn set_user_memory_region(&self, _: &MemoryRegion) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn set_memslot_flags(&self, slot: SlotId, flags: u32) -> Result<(), Errno> {
        match *self.refuse_flags.lock().unwrap() {
            Some((refused, errno)) if refused == slot => return Err(errno),
            _ => self.flags.lock().unwrap().push((slot, flags)),
        }
        Ok(())
    }

    fn get_dirty_log(&self, slot: SlotId, bitmap: &mut [u64]) -> Result<(), Errno> {
        match *self.refuse_get.lock().unwrap() {
            Some((refused, errno)) if refused == slot => return Err(errno),
            _ => {}
        }
        if let Some(words) = self.log.lock().unwrap().get(&slot) {
            bitmap.copy_from_slice(words);
        }
        Ok(())
    }

    fn clear_dirty_log(&self, slot: SlotId, first: u64, pages: u32, bitmap: &[u64]) -> Result<(), Errno> {
        if let Some(errno) = *self.refuse_clear.lock().unwrap() {
            return Err(errno);
        }
        self.cleared.lock().unwrap().push((slot, first, pages, bitmap.to_vec()));
        Ok(())
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        if let Some(errno) = *self.refuse_reset.lock().unwrap() {
            return Err(errno);
        }
        let hook = self.before_reset.lock().unwrap().take();
        hook.into_iter().for_each(|hook| hook());
        let rings = self.rings.lock().unwrap();
        let most = self.cut_short.lock().unwrap().take().unwrap_or(usize::MAX);
        let count = rings.iter().flat_map(|ring| std::iter::from_fn(|| ring.reset_next())).take(most).count();
        Ok(u32::try_from(count).unwrap() + std::mem::take(&mut *self.surplus.lock().unwrap()))
    }
}

/// vCPUs that count how often they were stopped and resumed.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    inner: Arc<Mutex<CountedInner>>,
}

#[derive(Debug, Default)]
struct CountedInner {
    stops: u32,
    resumes: u32,
    stopped: bool,
    refuse_stop: bool,
    refuse_resume: bool,
}

impl Counted {
    pub fn counts(&self) -> (u32, u32) {
        let inner = self.inner.lock().unwrap();
        (inner.stops, inner.resumes)
    }

    pub fn runs(&self) -> bool {
        !self.inner.lock().unwrap().stopped
    }

    pub fn refuse_stop(&self, refuse: bool) {
        self.inner.lock().unwrap().refuse_stop = refuse;
    }

    pub fn refuse_resume(&self, refuse: bool) {
        self.inner.lock().unwrap().refuse_resume = refuse;
    }
}

impl Vcpus for Counted {
    fn stop(&mut self) -> Result<(), BoxError> {
        let mut inner = self.inner.lock().unwrap();
        inner.stops += 1;
        inner.stopped = true;
        if inner.refuse_stop { Err("vCPU 1 does not answer".into()) } else { Ok(()) }
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        let mut inner = self.inner.lock().unwrap();
        inner.resumes += 1;
        if inner.refuse_resume {
            return Err("vCPU 1 does not answer".into());
        }
        inner.stopped = false;
        Ok(())
    }
}
