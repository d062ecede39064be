//! The engine against a naive model of the same rules, over random calls.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ringmark_abi::cap;
use ringmark_engine::{Exit, Profile, Vcpu, Writer};

use crate::common::{LOG, Reader, Rig, gpa, slot};

const VCPUS: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Mode {
    arm: bool,
    pml: bool,
    ring: bool,
    bitmap: bool,
}

impl Mode {
    const ALL: [Self; 7] = [
        Self { arm: false, pml: false, ring: true, bitmap: false },
        Self { arm: false, pml: true, ring: true, bitmap: false },
        Self { arm: false, pml: true, ring: false, bitmap: true },
        Self { arm: false, pml: false, ring: false, bitmap: true },
        Self { arm: true, pml: false, ring: true, bitmap: false },
        Self { arm: true, pml: false, ring: true, bitmap: true },
        Self { arm: true, pml: false, ring: false, bitmap: true },
    ];

    const fn pages(self) -> u64 {
        if self.pml { 700 } else { 250 }
    }

    const fn soft_limit(self) -> usize {
        if self.pml { 1024 - 64 - 512 } else { 256 - 64 }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Store { vcpu: usize, first: u64, count: u64 },
    KvmWrite { vcpu: usize, page: u64 },
    DeviceWrite { page: u64 },
    Harvest { vcpu: usize, most: usize },
    Reset,
    Get,
    Clear { word: u64, mask: u64 },
    Log(bool),
    Manual(u64),
    Unmap { first: u64, count: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..VCPUS, 0u64..700, 1u64..300).prop_map(|(vcpu, first, count)| Op::Store { vcpu, first, count }),
        3 => (0..VCPUS, 0u64..700, 1u64..6).prop_map(|(vcpu, first, count)| Op::Store { vcpu, first, count }),
        2 => (0..VCPUS, 0u64..700).prop_map(|(vcpu, page)| Op::KvmWrite { vcpu, page }),
        2 => (0u64..700).prop_map(|page| Op::DeviceWrite { page }),
        4 => (0..VCPUS, 0usize..1100).prop_map(|(vcpu, most)| Op::Harvest { vcpu, most }),
        4 => Just(Op::Reset),
        2 => Just(Op::Get),
        1 => (0u64..4, any::<u64>()).prop_map(|(word, mask)| Op::Clear { word, mask }),
        1 => any::<bool>().prop_map(Op::Log),
        1 => prop_oneof![Just(0u64), Just(1), Just(3)].prop_map(Op::Manual),
        1 => (0u64..700, 1u64..50).prop_map(|(first, count)| Op::Unmap { first, count }),
    ];
    prop::collection::vec(op, 1..60)
}

#[derive(Default)]
struct Ring {
    pushed: Vec<u64>,
    harvested: usize,
    reset: usize,
    request: bool,
}

struct Model {
    mode: Mode,
    log: bool,
    manual: u64,
    writable: BTreeSet<u64>,
    bitmap: Option<BTreeSet<u64>>,
    rings: Vec<Ring>,
    memory: Vec<u64>,
    /// Per page, the step of its last logged write and of its last report.
    written: Vec<u64>,
    reported: Vec<u64>,
    now: u64,
}

impl Model {
    fn new(mode: Mode) -> Self {
        Self {
            mode,
            log: true,
            manual: 0,
            writable: BTreeSet::new(),
            bitmap: mode.bitmap.then(BTreeSet::new),
            rings: (0..VCPUS).map(|_| Ring::default()).collect(),
            memory: vec![0; usize::try_from(mode.pages()).unwrap()],
            written: vec![0; usize::try_from(mode.pages()).unwrap()],
            reported: vec![0; usize::try_from(mode.pages()).unwrap()],
            now: 0,
        }
    }

    fn write(&mut self, page: u64, value: u64) {
        let page = usize::try_from(page).unwrap();
        self.memory[page] = value;
        if self.log {
            self.written[page] = self.now;
        }
    }

    fn report(&mut self, pages: &[u64]) {
        for &page in pages {
            self.reported[usize::try_from(page).unwrap()] = self.now;
        }
    }

    /// Pages that were written, not reported since, and that wait nowhere.
    fn lost(&self) -> Vec<u64> {
        let waiting: BTreeSet<u64> = self
            .rings
            .iter()
            .flat_map(|ring| &ring.pushed[ring.reset..])
            .chain(self.bitmap.iter().flatten())
            .copied()
            .collect();
        let stale = (0..).zip(self.written.iter().zip(&self.reported)).filter(|(_, (w, r))| w > r);
        stale.map(|(page, _)| page).filter(|page| self.log && !waiting.contains(page)).collect()
    }

    fn mark(&mut self, vcpu: Option<usize>, page: u64) {
        if !self.log {
            return;
        }
        if let Some(vcpu) = vcpu.filter(|_| self.mode.ring) {
            let ring = &mut self.rings[vcpu];
            ring.pushed.push(page);
            ring.request |= ring.pushed.len() - ring.reset >= self.mode.soft_limit();
        } else if let Some(bitmap) = &mut self.bitmap {
            bitmap.insert(page);
        }
    }

    fn is_full(&mut self, vcpu: usize) -> bool {
        let limit = self.mode.soft_limit();
        let ring = &mut self.rings[vcpu];
        ring.request &= ring.pushed.len() - ring.reset >= limit;
        ring.request
    }

    /// One run of stores to `pages`; whether it ended with a full ring.
    fn store(&mut self, vcpu: usize, pages: impl Iterator<Item = u64>, value: u64) -> bool {
        let mut buffer = Vec::new();
        let mut full = self.is_full(vcpu);
        for page in pages {
            if full {
                break;
            }
            if !self.writable.contains(&page) {
                if self.log && self.mode.pml {
                    if buffer.len() == 512 {
                        buffer.drain(..).for_each(|page| self.mark(Some(vcpu), page));
                        full = self.is_full(vcpu);
                        if full {
                            break;
                        }
                    }
                    buffer.push(page);
                } else if self.log {
                    self.mark(Some(vcpu), page);
                    full = self.is_full(vcpu);
                }
                self.writable.insert(page);
            }
            if !full {
                self.write(page, value);
            }
        }
        buffer.into_iter().for_each(|page| self.mark(Some(vcpu), page));
        full
    }

    /// Takes the right to write away from pages that are treated as one mask.
    fn protect(&mut self, pages: &[u64]) {
        let (Some(&lowest), Some(&highest)) = (pages.iter().min(), pages.iter().max()) else { return };
        if self.mode.arm {
            self.writable.retain(|page| !(lowest..=highest).contains(page));
        } else {
            self.writable.retain(|page| !pages.contains(page));
        }
    }

    fn reset(&mut self) -> usize {
        let mut count = 0;
        for vcpu in 0..VCPUS {
            let ring = &mut self.rings[vcpu];
            let taken: Vec<u64> = ring.pushed[ring.reset..ring.harvested].to_vec();
            ring.reset = ring.harvested;
            count += taken.len();
            self.report(&taken);
            let mut batch: Vec<u64> = Vec::new();
            for page in taken {
                let span =
                    batch.iter().chain([&page]).max().unwrap() - batch.iter().chain([&page]).min().unwrap();
                if span >= 64 {
                    self.protect(&batch);
                    batch.clear();
                }
                batch.push(page);
            }
            self.protect(&batch);
        }
        count
    }

    fn get(&mut self) -> Option<Vec<u64>> {
        let bits: Vec<u64> = self.bitmap.clone()?.into_iter().collect();
        if self.manual & 1 == 0 {
            self.bitmap = Some(BTreeSet::new());
            self.report(&bits);
            for word in bits.chunk_by(|a, b| a / 64 == b / 64) {
                self.protect(word);
            }
        }
        Some(bits)
    }

    fn clear(&mut self, word: u64, mask: u64) -> bool {
        let Some(bitmap) = &mut self.bitmap else { return false };
        let cleared: Vec<u64> =
            (0..64).filter(|bit| mask >> bit & 1 != 0).map(|bit| word * 64 + bit).collect();
        let cleared: Vec<u64> = cleared.into_iter().filter(|page| bitmap.remove(page)).collect();
        self.protect(&cleared);
        self.report(&cleared);
        true
    }

    fn set_log(&mut self, on: bool) {
        if on == self.log {
            return;
        }
        self.log = on;
        let initially_set = self.manual & 2 != 0;
        if on && !initially_set {
            self.writable.clear();
        }
        let all = if initially_set { (0..self.mode.pages()).collect() } else { BTreeSet::new() };
        self.bitmap = (on && (!self.mode.ring || self.mode.bitmap)).then_some(all);
    }
}

struct Real {
    rig: Rig,
    vcpus: Vec<Vcpu>,
    readers: Vec<Reader>,
}

impl Real {
    fn new(mode: Mode) -> Self {
        let profile = if mode.arm { Profile::arm64() } else { Profile::x86().pml(mode.pml) };
        let mut rig = Rig::new(profile);
        if mode.ring {
            rig.enable(cap::DIRTY_LOG_RING_ACQ_REL, if mode.pml { 16384 } else { 4096 }).unwrap();
        }
        if mode.ring && mode.bitmap {
            rig.enable(cap::DIRTY_LOG_RING_WITH_BITMAP, 0).unwrap();
        }
        rig.add(0, 0, mode.pages(), LOG);
        let vcpus: Vec<_> =
            (0..VCPUS).map(|id| rig.vm.create_vcpu(u32::try_from(id).unwrap()).unwrap()).collect();
        let readers = if mode.ring { vcpus.iter().map(Reader::new).collect() } else { Vec::new() };
        Self { rig, vcpus, readers }
    }

    fn store(&mut self, vcpu: usize, pages: impl Iterator<Item = u64>, value: u64) -> Result<(), Exit> {
        let mut running = self.vcpus[vcpu].enter()?;
        for page in pages {
            running.store(gpa(page), &value.to_ne_bytes())?;
        }
        Ok(())
    }
}

fn step(model: &mut Model, real: &mut Real, op: &Op, value: u64) {
    let pages = model.mode.pages();
    model.now += 1;
    match *op {
        Op::Store { vcpu, first, count } => {
            let run = (0..count).map(|i| (first + i) % pages);
            let expected =
                if model.store(vcpu, run.clone(), value) { Err(Exit::DirtyRingFull) } else { Ok(()) };
            assert_eq!(real.store(vcpu, run, value), expected);
        }
        Op::KvmWrite { vcpu, page } => {
            let size = if model.mode.pml { 1024 } else { 256 };
            if model.rings[vcpu].pushed.len() - model.rings[vcpu].reset < size {
                let page = page % pages;
                model.mark(Some(vcpu), page);
                model.write(page, value);
                real.vcpus[vcpu].kvm_write(gpa(page), &value.to_ne_bytes()).unwrap();
            }
        }
        Op::DeviceWrite { page } => {
            let page = page % pages;
            model.mark(None, page);
            model.write(page, value);
            real.rig.vm.device_write(gpa(page), &value.to_ne_bytes(), Writer::Other).unwrap();
        }
        Op::Harvest { vcpu, most } => {
            if model.mode.ring {
                let ring = &mut model.rings[vcpu];
                let expected: Vec<u64> = ring.pushed[ring.harvested..].iter().copied().take(most).collect();
                ring.harvested += expected.len();
                let taken = real.readers[vcpu].harvest(most);
                assert_eq!(taken.into_iter().map(|(_, offset)| offset).collect::<Vec<_>>(), expected);
            }
        }
        Op::Reset => {
            if model.mode.ring {
                assert_eq!(real.rig.reset() as usize, model.reset());
            }
        }
        Op::Get => assert_eq!(real.rig.get(0).ok(), model.get()),
        Op::Clear { word, mask } => {
            let first = (word * 64).min(pages / 64 * 64);
            let num = u32::try_from((pages - first).min(64)).unwrap();
            assert_eq!(real.rig.clear(0, first, num, &[mask]).is_ok(), model.clear(first / 64, mask));
        }
        Op::Log(on) => {
            model.set_log(on);
            real.rig.flags(0, if on { LOG } else { 0 });
        }
        Op::Manual(value) => {
            model.manual = value;
            real.rig.manual(value);
        }
        Op::Unmap { first, count } => {
            let first = first % pages;
            model.writable.retain(|page| !(first..first + count).contains(page));
            real.rig.vm.unmap(slot(0), first, count);
        }
    }
    for (reader, ring) in real.readers.iter().zip(&model.rings) {
        assert_eq!(reader.offsets(), ring.pushed[ring.harvested..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_engine_does_what_the_rules_say(
        mode in prop::sample::select(Mode::ALL.to_vec()),
        ops in ops(),
        strict in any::<bool>(),
    ) {
        let (mut model, mut real) = (Model::new(mode), Real::new(mode));
        real.rig.vm.set_strict(strict);
        for (op, value) in ops.iter().zip(1..) {
            step(&mut model, &mut real, op, value);
            if strict {
                let lost: Vec<u64> = real.rig.vm.unreported().into_iter().map(|(_, page)| page).collect();
                prop_assert_eq!(lost, model.lost());
            }
        }
        step(&mut model, &mut real, &Op::Get, 0);
        prop_assert_eq!(real.rig.vm.stats().hard_full_events, 0);
        for (page, &expected) in (0..).zip(&model.memory) {
            prop_assert_eq!(real.rig.rams[0].read(page, 0), expected);
        }
    }
}
