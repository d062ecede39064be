//! Targets that break one rule each: the cases that know the rule must notice.

#![allow(unreachable_pub, reason = "shared by test programs")]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm as _};
use ringmark_conformance::{
    Dest, Exit, Facts, Kicker, MapRequest, Mapping, Probe, Program, Source, Stop, Target, TestDevice,
    TestVcpu, TestVm, Tried, Unsupported, Wish,
};
use ringmark_dirty::{Entry, FLAG_DIRTY, FLAG_RESET, RingMemory, SlotId};

/// A rule, broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is broken.
    None,
    /// Every refusal has another error number.
    ErrnoChanged,
    /// Every capability has another value.
    CapabilityValueChanged,
    /// Every capability can be enabled, always.
    CapabilitiesNeverRefused,
    /// No capability can be enabled.
    CapabilitiesRefused,
    /// A mapping of a ring has no end.
    MappingsNeverEnd,
    /// A ring has an entry from the start.
    RingsBornDirty,
    /// Reset says one more than it took.
    ResetCountsOneMore,
    /// Reset says one less than it took.
    ResetCountsOneLess,
    /// Reset empties entries and leaves their pages writable.
    ResetLeavesPagesWritable,
    /// The full exit comes one entry late.
    SoftLimitOneLater,
    /// The newest entry of every run vanishes.
    NewestEntryLost,
    /// Every run adds an entry for a page that nobody touched.
    SpuriousEntry,
    /// Reading a bitmap does not clear it.
    GetKeepsBits,
    /// Every page is always reported.
    GetReportsAll,
    /// A failed read leaves the bits in place.
    FailedGetKeepsBits,
    /// Clearing a bitmap does nothing.
    ClearDoesNothing,
    /// Memslots never log.
    LogFlagIgnored,
    /// What a device writes is marked nowhere.
    DeviceWritesUnlogged,
}

impl Fault {
    /// Every fault but none.
    pub const ALL: [Self; 18] = [
        Self::ErrnoChanged,
        Self::CapabilityValueChanged,
        Self::CapabilitiesNeverRefused,
        Self::CapabilitiesRefused,
        Self::MappingsNeverEnd,
        Self::RingsBornDirty,
        Self::ResetCountsOneMore,
        Self::ResetCountsOneLess,
        Self::ResetLeavesPagesWritable,
        Self::SoftLimitOneLater,
        Self::NewestEntryLost,
        Self::SpuriousEntry,
        Self::GetKeepsBits,
        Self::GetReportsAll,
        Self::FailedGetKeepsBits,
        Self::ClearDoesNothing,
        Self::LogFlagIgnored,
        Self::DeviceWritesUnlogged,
    ];

    fn answer<T>(self, answer: Result<T, Errno>) -> Result<T, Errno> {
        if self == Self::ErrnoChanged { answer.map_err(|_| Errno::ENOTTY) } else { answer }
    }

    fn enabled(self, answer: Result<(), Errno>) -> Result<(), Errno> {
        match self {
            Self::CapabilitiesNeverRefused => Ok(()),
            Self::CapabilitiesRefused => Err(Errno::EINVAL),
            _ => self.answer(answer),
        }
    }

    fn value(self, answer: Result<u64, Errno>) -> Result<u64, Errno> {
        let change = u64::from(self == Self::CapabilityValueChanged);
        self.answer(answer).map(|value| value + change)
    }
}

#[derive(Debug)]
pub struct Broken {
    pub inner: Arc<dyn Target>,
    pub fault: Fault,
}

impl Target for Broken {
    fn facts(&self) -> &Facts {
        self.inner.facts()
    }

    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.fault.value(self.inner.check_extension(cap))
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.fault.enabled(self.inner.enable_cap(cap))
    }

    fn create_vm(&self, wish: Wish) -> Result<Box<dyn TestVm>, Stop> {
        let inner = self.inner.create_vm(wish)?;
        if self.fault == Fault::SoftLimitOneLater {
            let engine = inner.engine().ok_or(Stop::Unsupported(Unsupported("no engine".into())))?;
            // The push that reaches the limit of the smallest ring goes unnoticed, the next one does not.
            engine.faults().skip_soft_full_checks(256 - 64);
        }
        Ok(Box::new(BrokenVm { inner, fault: self.fault, rings: Mutex::default(), bits: Mutex::default() }))
    }
}

struct BrokenVm {
    inner: Box<dyn TestVm>,
    fault: Fault,
    rings: Mutex<Vec<Arc<dyn RingMemory>>>,
    bits: Mutex<HashMap<SlotId, Vec<u64>>>,
}

impl fmt::Debug for BrokenVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokenVm")
            .field("inner", &self.inner)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl BrokenVm {
    fn keep(&self, slot: SlotId, words: &mut [u64]) {
        let mut bits = self.bits.lock().expect("no test panics with it");
        let kept = bits.entry(slot).or_insert_with(|| vec![0; words.len()]);
        for (kept, word) in kept.iter_mut().zip(words) {
            *kept |= *word;
            *word = *kept;
        }
    }
}

#[expect(unsafe_code, reason = "passes the memslot's promise on")]
impl TestVm for BrokenVm {
    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.fault.value(self.inner.check_extension(cap))
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.fault.enabled(self.inner.enable_cap(cap))
    }

    unsafe fn set_region(&self, region: &MemoryRegion) -> Result<(), Errno> {
        let flags = if self.fault == Fault::LogFlagIgnored { region.flags & !1 } else { region.flags };
        // SAFETY: what this function asks of its caller is what that one asks.
        self.fault.answer(unsafe { self.inner.set_region(&MemoryRegion { flags, ..*region }) })
    }

    fn get_dirty_log(&self, slot: SlotId, dest: Dest<'_>) -> Result<(), Errno> {
        let answer = match (self.fault, dest) {
            (Fault::FailedGetKeepsBits, Dest::Bad) => Err(Errno::EFAULT),
            (Fault::GetKeepsBits, Dest::Words(words)) => {
                let answer = self.inner.get_dirty_log(slot, Dest::Words(words));
                answer.map(|()| self.keep(slot, words))
            }
            (Fault::GetReportsAll, Dest::Words(words)) => {
                let answer = self.inner.get_dirty_log(slot, Dest::Words(words));
                answer.map(|()| words.fill(u64::MAX))
            }
            (_, dest) => self.inner.get_dirty_log(slot, dest),
        };
        self.fault.answer(answer)
    }

    fn clear_dirty_log(&self, slot: SlotId, first: u64, num: u32, source: Source<'_>) -> Result<(), Errno> {
        match self.fault {
            Fault::ClearDoesNothing => Ok(()),
            fault => fault.answer(self.inner.clear_dirty_log(slot, first, num, source)),
        }
    }

    fn reset(&self, arg: u64) -> Result<u32, Errno> {
        if self.fault == Fault::ResetLeavesPagesWritable {
            for ring in self.rings.lock().expect("no test panics with it").iter() {
                for entry in ring.entries().iter().filter(|entry| entry.flags() & FLAG_RESET != 0) {
                    entry.set_payload(u32::MAX, 0);
                }
            }
        }
        let count = self.fault.answer(self.inner.reset(arg))?;
        Ok(match self.fault {
            Fault::ResetCountsOneLess => count.saturating_sub(1),
            Fault::ResetCountsOneMore => count + 1,
            _ => count,
        })
    }

    fn reset_amid_signals(&self, every: Duration) -> Tried<u32> {
        let count = self.inner.reset_amid_signals(every)?;
        Ok(if self.fault == Fault::ResetCountsOneLess { count.map(|n| n - 1) } else { count })
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn TestVcpu>, Errno> {
        let inner = self.inner.create_vcpu(id)?;
        let ring = inner.ring();
        if let Some(entry) = ring.as_ref().and_then(|ring| ring.entries().first())
            && self.fault == Fault::RingsBornDirty
        {
            entry.set_flags(FLAG_DIRTY);
        }
        self.rings.lock().expect("no test panics with it").extend(ring);
        Ok(Box::new(BrokenVcpu { inner, fault: self.fault, seen: 0 }))
    }

    fn in_forked_child(&self) -> Tried<()> {
        Ok(self.fault.answer(self.inner.in_forked_child()?))
    }

    fn create_device(&self, kind: u32) -> Tried<Box<dyn TestDevice>> {
        let device = self.fault.answer(self.inner.create_device(kind)?);
        let vm = self.engine().cloned();
        let fault = self.fault;
        Ok(device.map(|inner| Box::new(BrokenDevice { inner, vm, fault }) as Box<dyn TestDevice>))
    }

    fn signal_msi(&self, address: u64, device: u32, event: u32) -> Tried<u32> {
        self.inner.signal_msi(address, device, event)
    }

    fn engine(&self) -> Option<&ringmark_engine::Vm> {
        self.inner.engine()
    }
}

#[derive(Debug)]
struct BrokenVcpu {
    inner: Box<dyn TestVcpu>,
    fault: Fault,
    /// Where in the ring the newest entry was expected last.
    seen: usize,
}

impl BrokenVcpu {
    /// The first entry that is empty, from the last one found on; and that entry's index.
    fn after_newest(&mut self, entries: &[Entry]) -> usize {
        while self.seen < entries.len() && entries[self.seen].flags() != 0 {
            self.seen += 1;
        }
        self.seen
    }

    fn spoil_ring(&mut self) {
        let Some(ring) = self.inner.ring() else { return };
        let entries = ring.entries();
        let end = self.after_newest(entries);
        match self.fault {
            Fault::NewestEntryLost if end > 0 && entries[end - 1].flags() == FLAG_DIRTY => {
                entries[end - 1].set_flags(0);
            }
            Fault::SpuriousEntry if end < entries.len() => {
                entries[end].set_payload(1, 1_000_000);
                entries[end].set_flags(FLAG_DIRTY);
            }
            _ => {}
        }
    }
}

impl TestVcpu for BrokenVcpu {
    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.fault.enabled(self.inner.enable_cap(cap))
    }

    fn ring(&self) -> Option<Arc<dyn RingMemory>> {
        self.inner.ring()
    }

    fn map(&self, request: &MapRequest) -> Tried<Box<dyn Mapping>> {
        let mapped = self.fault.answer(self.inner.map(request)?);
        Ok(if self.fault == Fault::MappingsNeverEnd {
            mapped.map(|_| Box::new(Endless) as Box<dyn Mapping>)
        } else {
            mapped
        })
    }

    fn load(&mut self, program: &Program) -> Result<(), Stop> {
        self.inner.load(program)
    }

    fn run(&mut self) -> Result<Exit, Errno> {
        let answer = self.inner.run();
        self.spoil_ring();
        self.fault.answer(answer)
    }

    fn set_immediate_exit(&mut self, on: bool) {
        self.inner.set_immediate_exit(on);
    }

    fn write_wall_clock(&mut self, gpa: u64) -> Tried<()> {
        let answer = self.inner.write_wall_clock(gpa);
        self.spoil_ring();
        answer
    }

    fn kicker(&self) -> Kicker {
        self.inner.kicker()
    }
}

#[derive(Debug)]
struct Endless;

impl Mapping for Endless {
    fn probe(&self, _page: u64) -> Probe {
        Probe::Readable
    }
}

#[derive(Debug)]
struct BrokenDevice {
    inner: Box<dyn TestDevice>,
    vm: Option<ringmark_engine::Vm>,
    fault: Fault,
}

impl BrokenDevice {
    /// Takes back every mark there is.
    fn forget(&self) {
        let Some(vm) = &self.vm else { return };
        for slot in vm.slot_table().iter() {
            let words = usize::try_from(slot.npages.div_ceil(64)).expect("small slots");
            let pages = u32::try_from(slot.npages).expect("small slots");
            // Not every slot logs, and without a bitmap there is nothing to forget.
            let _ = vm.clear_dirty_log(slot.id, 0, pages, &vec![u64::MAX; words]);
        }
    }
}

impl TestDevice for BrokenDevice {
    fn set(&self, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
        let answer = self.inner.set(group, attr, value);
        if self.fault == Fault::DeviceWritesUnlogged {
            self.forget();
        }
        self.fault.answer(answer)
    }

    fn get(&self, group: u32, attr: u64) -> Result<u64, Errno> {
        self.fault.answer(self.inner.get(group, attr))
    }
}
