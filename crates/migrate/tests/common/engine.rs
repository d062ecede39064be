//! A guest on the software engine: vCPUs with rings that store page after page, at rates and in patterns of the test's.
#![allow(unsafe_code, reason = "memslots are given to the engine")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmark_abi::{MemoryRegion, Vm as _};
use ringmark_dirty::{DirtyPages, Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_engine::{Exit, Kick, Profile, Running, System, Vcpu, Vm};
use ringmark_migrate::codec::PageStore;
use ringmark_migrate::receive::{Arrival, Arriving, ReceiveOptions, receive};
use ringmark_migrate::report::Report;
use ringmark_migrate::send::{Departed, Departing, Identity, SendOptions, SendProgress, depart};
use ringmark_migrate::{Address, Connector, Listener, Offer, Refusal};
use ringmark_track::{
    BoxError, KernelWrites, Mapping, Memory, MemoryError, Method, Needs, RingFull, Tracker, Vcpus, Wish,
    negotiate,
};

pub const RAM: SlotId = SlotId::new(0, 0);
pub const PAGE: usize = 4096;
/// A guest that is behind its pace by more than this was not run by the host, and does not catch up.
const BEHIND: Duration = Duration::from_millis(1);

/// Which page comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One after the other, over and over.
    Sequential,
    /// Any, with the same chance.
    Uniform,
    /// The k-th with a chance of 1/k.
    Zipf,
}

/// What one vCPU does: writes `hot` pages from `first`, `rate` a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub pattern: Pattern,
    pub first: u64,
    pub hot: u64,
    pub rate: u64,
}

/// What a vCPU knows: how often it wrote each of its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registers {
    load: Load,
    steps: u64,
    random: u64,
    /// Of patterns in which the steps do not tell.
    written: Vec<u32>,
}

impl Registers {
    fn new(load: Load) -> Self {
        let written = if load.pattern == Pattern::Sequential { 0 } else { load.hot };
        let written = vec![0; usize::try_from(written).unwrap()];
        Self { load, steps: 0, random: 0x9e37_79b9_7f4a_7c15 ^ load.first, written }
    }

    /// The page that is written next, and what is stored there; nothing has happened yet.
    fn next(&self) -> (u64, u64) {
        let Load { pattern, hot, .. } = self.load;
        if pattern == Pattern::Sequential {
            return (self.steps % hot, self.steps / hot + 1);
        }
        let page = match pattern {
            Pattern::Zipf => zipf(hot, self.random),
            _ => self.random % hot,
        };
        (page, u64::from(self.written[usize::try_from(page).unwrap()]) + 1)
    }

    /// It was stored.
    fn advance(&mut self) {
        let (page, _) = self.next();
        if let Some(written) = self.written.get_mut(usize::try_from(page).unwrap()) {
            *written += 1;
        }
        self.steps += 1;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
    }

    fn expected(&self, page: u64) -> u64 {
        match self.load.pattern {
            Pattern::Sequential => (self.steps + self.load.hot - 1 - page) / self.load.hot,
            _ => self.written[usize::try_from(page).unwrap()].into(),
        }
    }

    fn save(&self) -> Vec<u8> {
        let Load { pattern, first, hot, rate } = self.load;
        let words = [pattern as u64, first, hot, rate, self.steps, self.random];
        let written = self.written.iter().flat_map(|count| count.to_le_bytes());
        words.into_iter().flat_map(u64::to_le_bytes).chain(written).collect()
    }

    fn load(state: &[u8]) -> Option<(Self, &[u8])> {
        let (words, rest) = state.split_at_checked(48)?;
        let word = |at: usize| u64::from_le_bytes(words[at * 8..at * 8 + 8].try_into().unwrap());
        let pattern = match word(0) {
            0 => Pattern::Sequential,
            1 => Pattern::Uniform,
            _ => Pattern::Zipf,
        };
        let load = Load { pattern, first: word(1), hot: word(2), rate: word(3) };
        let mut registers = Self::new(load);
        (registers.steps, registers.random) = (word(4), word(5));
        let (counts, rest) = rest.split_at_checked(registers.written.len() * 4)?;
        let counts = counts.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        registers.written = counts.collect();
        Some((registers, rest))
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a page number"
)]
fn zipf(hot: u64, random: u64) -> u64 {
    let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
    ((hot as f64).powf(share) as u64).clamp(1, hot) - 1
}

/// Guest memory in one slot.
pub struct Ram {
    block: *mut u8,
    layout: Layout,
    slots: SlotTable,
    /// Pages that something was stored in here: of the others it is known that they are zeros.
    stored: Vec<AtomicBool>,
}

// SAFETY: the block is this value's own, is freed when it is dropped, and is accessed by copies alone, as guest memory is.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    pub fn new(pages: u64) -> Arc<Self> {
        // Memory of a larger alignment would be zeroed by hand, all of it.
        let bytes = (usize::try_from(pages).unwrap() + 1) * PAGE;
        let layout = Layout::from_size_align(bytes, 16).unwrap();
        // SAFETY: there is at least a page.
        let block = unsafe { alloc_zeroed(layout) };
        assert!(!block.is_null());
        let slots = SlotTable::new([Memslot { id: RAM, base: Gfn(0), npages: pages }]).unwrap();
        let stored = (0..pages).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Self { block, layout, slots, stored })
    }

    fn at(&self, page: u64, length: usize) -> *mut u8 {
        let at = usize::try_from(page).unwrap() * PAGE;
        assert!(at + length <= self.bytes());
        self.start().wrapping_add(at)
    }

    /// The first byte of the first page.
    fn start(&self) -> *mut u8 {
        self.block.wrapping_add(self.block.align_offset(PAGE))
    }

    fn bytes(&self) -> usize {
        self.layout.size() - PAGE
    }

    fn word(&self, page: u64) -> u64 {
        let mut word = [0; 8];
        // SAFETY: checked above; what the guest writes meanwhile is none of the compiler's.
        unsafe { self.at(page, 8).copy_to_nonoverlapping(word.as_mut_ptr(), 8) };
        u64::from_le_bytes(word)
    }

    pub fn slots(&self) -> &SlotTable {
        &self.slots
    }
}

impl Ram {
    /// A copy, as an image of the machine would be.
    pub fn copy(&self) -> Arc<Self> {
        let copy = Self::new(self.stored.len() as u64);
        let mut page = [0; PAGE];
        for (number, stored) in (0..).zip(&self.stored) {
            if stored.load(Ordering::Relaxed) {
                self.read(RAM, number, &mut page).unwrap();
                copy.write(RAM, number, &page).unwrap();
            }
        }
        copy
    }

    fn stored(&self) -> DirtyPages {
        let mut pages = DirtyPages::new(&self.slots);
        for (number, stored) in (0..).zip(&self.stored) {
            if stored.load(Ordering::Relaxed) {
                pages.insert(RAM, number).unwrap();
            }
        }
        pages
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody else frees it.
        unsafe { dealloc(self.block, self.layout) };
    }
}

impl Memory for Ram {
    fn page_size(&self) -> PageSize {
        PageSize::new(PAGE as u64).unwrap()
    }

    fn read(&self, slot: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        self.read_run(slot, offset, page)
    }

    fn read_run(&self, _: SlotId, offset: u64, run: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: checked by `at`.
        unsafe { self.at(offset, run.len()).copy_to_nonoverlapping(run.as_mut_ptr(), run.len()) };
        Ok(())
    }
}

impl PageStore for Ram {
    fn write(&self, _: SlotId, first: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let pages = usize::try_from(first).unwrap()..;
        pages.take(bytes.len() / PAGE).for_each(|page| self.stored[page].store(true, Ordering::Relaxed));
        // SAFETY: checked by `at`.
        unsafe { self.at(first, bytes.len()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn zero(&self, slot: SlotId, first: u64, count: u64) -> Result<(), MemoryError> {
        for page in first..first + count {
            if self.stored[usize::try_from(page).unwrap()].load(Ordering::Relaxed) {
                self.write(slot, page, &[0; PAGE])?;
            }
        }
        Ok(())
    }
}

/// Where vCPU threads wait while the guest is stopped.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    ended: bool,
    parked: usize,
    threads: usize,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap()
    }

    /// Whether to go on.
    fn pass(&self) -> bool {
        let mut state = self.lock();
        if state.open || state.ended {
            return !state.ended;
        }
        state.parked += 1;
        self.changed.notify_all();
        while !state.open && !state.ended {
            state = self.changed.wait(state).unwrap();
        }
        state.parked -= 1;
        !state.ended
    }

    fn open(&self) {
        self.lock().open = true;
        self.changed.notify_all();
    }

    fn close(&self, kick: impl Fn()) {
        let mut state = self.lock();
        state.open = false;
        drop(state);
        kick();
        state = self.lock();
        while state.parked < state.threads {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn end(&self, kick: impl Fn()) {
        self.lock().ended = true;
        self.changed.notify_all();
        kick();
    }

    fn leave(&self) {
        self.lock().threads -= 1;
        self.changed.notify_all();
    }
}

/// A machine whose vCPUs run on the engine.
pub struct Machine {
    vm: Vm,
    pub ram: Arc<Ram>,
    method: Method,
    gate: Arc<Gate>,
    kicks: Vec<(Kick, RingFull)>,
    registers: Vec<Arc<Mutex<Registers>>>,
    /// Stores so far, readable while they run.
    pub counts: Vec<Arc<AtomicU64>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    tracker: Mutex<Option<Tracker>>,
    /// How often it was stopped.
    pub stops: AtomicU32,
    /// What stopping it costs on top, once.
    pub slow_stops: AtomicU32,
}

impl Machine {
    pub fn new(pages: u64, entries: u32, loads: &[Load]) -> Self {
        Self::with(Ram::new(pages), entries, loads.iter().map(|load| Registers::new(*load)).collect())
    }

    fn with(ram: Arc<Ram>, entries: u32, registers: Vec<Registers>) -> Self {
        let vm = System::new(Profile::x86()).create_vm();
        let needs = Needs { kernel_writes: KernelWrites::None, mapping: Mapping::SmallPages };
        let method = negotiate(&vm, Wish::Ring { entries: Some(entries) }, needs).unwrap().method;
        let region = MemoryRegion {
            slot: RAM,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: ram.bytes() as u64,
            userspace_addr: ram.start().expose_provenance() as u64,
        };
        // SAFETY: the memory is freed after the machine's threads have ended.
        unsafe { vm.set_user_memory_region(&region) }.unwrap();
        let mut tracker = Tracker::new(Arc::new(vm.clone()), ram.slots.clone(), method).unwrap();
        let gate = Arc::new(Gate::default());
        let mut machine = Self {
            vm,
            ram,
            method,
            gate,
            kicks: Vec::new(),
            registers: Vec::new(),
            counts: Vec::new(),
            threads: Mutex::default(),
            tracker: Mutex::new(None),
            stops: AtomicU32::new(0),
            slow_stops: AtomicU32::new(0),
        };
        for (id, registers) in (0..).zip(registers) {
            let vcpu = machine.vm.create_vcpu(id).unwrap();
            let ring = tracker.add_ring(id, vcpu.ring_memory().unwrap()).unwrap();
            machine.seat(vcpu, ring, registers);
        }
        *machine.tracker.lock().unwrap() = Some(tracker);
        machine
    }

    fn seat(&mut self, vcpu: Vcpu, ring: RingFull, registers: Registers) {
        let kick = vcpu.kicker();
        ring.kick_with(move || kick.signal());
        self.kicks.push((vcpu.kicker(), ring.clone()));
        let (registers, count) = (Arc::new(Mutex::new(registers)), Arc::new(AtomicU64::new(0)));
        self.registers.push(Arc::clone(&registers));
        self.counts.push(Arc::clone(&count));
        self.gate.lock().threads += 1;
        let (gate, ram) = (Arc::clone(&self.gate), Arc::clone(&self.ram));
        let thread = thread::spawn(move || {
            run(vcpu, &ring, &gate, &ram, &registers, &count);
            gate.leave();
        });
        self.threads.lock().unwrap().push(thread);
    }

    /// The machine's tracker, once.
    pub fn tracker(&self) -> Tracker {
        self.tracker.lock().unwrap().take().unwrap()
    }

    pub fn method(&self) -> Method {
        self.method
    }

    pub fn start(&self) {
        self.gate.open();
    }

    fn kick(&self) {
        for (vcpu, ring) in &self.kicks {
            vcpu.kick();
            ring.wake();
        }
    }

    pub fn stop(&self) {
        self.gate.close(|| self.kick());
        self.stops.fetch_add(1, Ordering::SeqCst);
        let slow = self.slow_stops.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if slow.is_ok() {
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// Changes the rate of a vCPU.
    pub fn slow_down(&self, vcpu: usize, rate: u64) {
        self.stop();
        self.registers[vcpu].lock().unwrap().load.rate = rate;
        self.start();
    }

    /// As a monitor that does not know that a vCPU may rest.
    pub fn stop_without_waking(&self) {
        self.gate.close(|| self.kicks.iter().for_each(|(vcpu, _)| vcpu.kick()));
    }

    /// The guest looks at its own memory; it is stopped.
    pub fn check(&self) {
        for registers in &self.registers {
            let registers = registers.lock().unwrap();
            for page in 0..registers.load.hot {
                let (found, expected) =
                    (self.ram.word(registers.load.first + page), registers.expected(page));
                assert_eq!(
                    found, expected,
                    "page {page} of {:?} is not as it was written last",
                    registers.load
                );
            }
        }
    }

    pub fn identity(&self) -> Identity {
        Identity {
            name: "toy".into(),
            hypervisor: "engine".into(),
            architecture: "x86_64".into(),
            vcpus: self.registers.len().try_into().unwrap(),
            needs: Vec::new(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.gate.end(|| self.kick());
        for thread in self.threads.lock().unwrap().drain(..) {
            thread.join().unwrap();
        }
    }
}

fn run(
    mut vcpu: Vcpu,
    ring: &RingFull,
    gate: &Gate,
    ram: &Ram,
    registers: &Mutex<Registers>,
    count: &AtomicU64,
) {
    while gate.pass() {
        ring.rest();
        vcpu.clear_immediate_exit();
        // A stop that came before the flag was cleared is seen here.
        if !gate.lock().open {
            continue;
        }
        let mut registers = registers.lock().unwrap();
        let exit = match vcpu.enter() {
            Ok(mut running) => stores(&mut running, ram, &mut registers, count),
            Err(exit) => exit,
        };
        drop(registers);
        match exit {
            Exit::Interrupted => {}
            Exit::DirtyRingFull => drop(ring.drain().unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

/// Stores until the vCPU leaves the guest.
fn stores(running: &mut Running<'_>, ram: &Ram, registers: &mut Registers, count: &AtomicU64) -> Exit {
    let pause = Duration::from_nanos(1_000_000_000 / registers.load.rate.max(1));
    let mut due = Instant::now();
    loop {
        while Instant::now() < due {
            if let Err(exit) = running.poll() {
                return exit;
            }
            if due.saturating_duration_since(Instant::now()) > Duration::from_micros(200) {
                thread::sleep(Duration::from_micros(100));
            }
            std::hint::spin_loop();
        }
        let (page, word) = registers.next();
        let page = registers.load.first + page;
        if let Err(exit) = running.store(page * PAGE as u64, &word.to_le_bytes()) {
            return exit;
        }
        ram.stored[usize::try_from(page).unwrap()].store(true, Ordering::Relaxed);
        registers.advance();
        count.fetch_add(1, Ordering::Relaxed);
        due += pause;
        if due.elapsed() > BEHIND {
            due = Instant::now();
        }
    }
}

/// The machine on its way to a standstill.
pub struct Halted<'m>(&'m Machine);

impl Vcpus for Halted<'_> {
    fn stop(&mut self) -> Result<(), BoxError> {
        self.0.stop();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        self.0.start();
        Ok(())
    }
}

impl Departing for Machine {
    type Halted<'m> = Halted<'m>;

    fn memory(&self) -> &dyn Memory {
        &*self.ram
    }

    fn slots(&self) -> &SlotTable {
        &self.ram.slots
    }

    fn holes(&self) -> Result<DirtyPages, BoxError> {
        let mut holes = DirtyPages::new(&self.ram.slots);
        for (page, stored) in (0..).zip(&self.ram.stored) {
            if !stored.load(Ordering::Relaxed) {
                holes.insert(RAM, page)?;
            }
        }
        Ok(holes)
    }

    fn halt(&self) -> Halted<'_> {
        Halted(self)
    }

    fn save(&self, _: &mut Halted<'_>) -> Result<Vec<u8>, BoxError> {
        Ok(self.registers.iter().flat_map(|registers| registers.lock().unwrap().save()).collect())
    }

    fn leave(&self, _: Halted<'_>, _: bool) {}
}

/// Builds machines that arrive.
pub struct Arrivals {
    pub entries: u32,
    /// Memory that the next one starts from instead of empty memory.
    pub seed: Option<Arc<Ram>>,
}

/// A machine that arrives: complete but for what its vCPUs know.
pub struct Coming {
    pub machine: Machine,
}

impl Arriving for Arrivals {
    type Arrival = Coming;

    fn accept(&mut self, offer: &Offer) -> Result<Coming, Refusal> {
        let ram = self.seed.take().unwrap_or_else(|| Ram::new(offer.slots[0].npages));
        let nothing = Load { pattern: Pattern::Sequential, first: 0, hot: 1, rate: 1 };
        let vcpus = (0..offer.vcpus).map(|_| Registers::new(nothing)).collect();
        Ok(Coming { machine: Machine::with(ram, self.entries, vcpus) })
    }
}

impl Arrival for Coming {
    type Machine = Machine;

    fn memory(&self) -> &dyn PageStore {
        &*self.machine.ram
    }

    fn seeded(&self) -> Option<DirtyPages> {
        Some(self.machine.ram.stored())
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BoxError> {
        let mut rest = state;
        for registers in &self.machine.registers {
            let (loaded, more) = Registers::load(rest).ok_or("the state is too short")?;
            *registers.lock().unwrap() = loaded;
            rest = more;
        }
        if rest.is_empty() { Ok(()) } else { Err("the state has more vCPUs than were offered".into()) }
    }

    fn run(self) -> Result<Machine, BoxError> {
        self.machine.start();
        Ok(self.machine)
    }
}

/// Migrates `machine` over a Unix socket; what arrives runs.
pub fn migrate(
    machine: &Machine,
    tracker: &mut Tracker,
    options: &SendOptions,
    cancel: &AtomicBool,
    watch: &mut dyn FnMut(&SendProgress<'_>),
) -> (Result<Report, Departed>, Option<Machine>) {
    const PATIENCE: Duration = Duration::from_secs(20);
    let dir = tempfile::tempdir().unwrap();
    let address = Address::Unix(dir.path().join("socket"));
    let listener = Listener::bind(address.clone(), None, false, PATIENCE).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let receiver = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut arrivals = Arrivals { entries: 4096, seed: None };
            let options = ReceiveOptions::default();
            receive(listener, &mut arrivals, &options, &stop, &mut || None, &mut |_| {})
        }
    });
    let to = Connector::new(address, None, false, PATIENCE).unwrap();
    let sent = depart(machine, &machine.identity(), tracker, &to, options, cancel, watch);
    stop.store(true, Ordering::SeqCst);
    let arrived = receiver.join().unwrap();
    assert_eq!(arrived.is_ok(), sent.is_ok(), "{:?}", sent.as_ref().err());
    (sent, arrived.ok().map(|arrived| arrived.machine))
}
