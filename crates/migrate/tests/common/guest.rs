//! A guest that knows what it wrote: a lost page is noticed from the inside.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringmark_dirty::{DirtyPages, Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_engine::{Profile, System};
use ringmark_migrate::codec::PageStore;
use ringmark_migrate::receive::{Arrival, Arriving};
use ringmark_migrate::send::{Departing, Identity};
use ringmark_migrate::{MemoryFile, Offer, Refusal};
use ringmark_track::{BoxError, Memory, MemoryError, Method, MonitorLog, Tracker, Vcpus};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

pub const PAGE: usize = 4096;
pub const PAGES: u64 = 512;

pub fn slots() -> SlotTable {
    SlotTable::new([
        Memslot { id: SlotId::new(0, 0), base: Gfn(0), npages: PAGES / 2 },
        Memslot { id: SlotId::new(0, 1), base: Gfn(PAGES), npages: PAGES / 2 },
    ])
    .unwrap()
}

/// Guests that run now: more than one is one too many.
#[derive(Clone, Default)]
pub struct Running(pub Arc<AtomicI32>);

impl Running {
    fn enter(&self) {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "two guests run");
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn count(&self) -> i32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Memory, in a file, whose every write through [`PageStore`] or by the guest is marked.
pub struct Ram {
    file: File,
    /// Of whoever changes a page, which takes a read and a write.
    changing: Mutex<()>,
    pub log: MonitorLog,
    slots: SlotTable,
}

impl Ram {
    pub fn new() -> Self {
        let file = memfd_create("toy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, slots().total_pages() * PAGE as u64).unwrap();
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        Self::on(file.into())
    }

    pub fn on(file: File) -> Self {
        let page_size = PageSize::new(PAGE as u64).unwrap();
        let slots = slots();
        Self { file, changing: Mutex::default(), log: MonitorLog::new(&slots, page_size), slots }
    }

    fn at(&self, slot: SlotId, page: u64) -> u64 {
        let before = if slot.id() == 0 { 0 } else { PAGES / 2 };
        assert!(page < self.slots.get(slot).unwrap().npages);
        (before + page) * PAGE as u64
    }

    fn change(&self, slot: SlotId, page: u64, write: impl FnOnce(&mut [u8])) {
        let at = self.at(slot, page);
        let _changing = self.changing.lock().unwrap();
        let mut bytes = [0; PAGE];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        write(&mut bytes);
        self.file.write_all_at(&bytes, at).unwrap();
        self.log.slot(slot).unwrap().mark(page * PAGE as u64, PAGE as u64);
    }
}

impl Memory for Ram {
    fn page_size(&self) -> PageSize {
        PageSize::new(PAGE as u64).unwrap()
    }

    fn read(&self, slot: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        self.file.read_exact_at(page, self.at(slot, offset)).unwrap();
        Ok(())
    }
}

impl PageStore for Ram {
    fn write(&self, slot: SlotId, first: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        for (page, bytes) in (first..).zip(bytes.chunks_exact(PAGE)) {
            self.change(slot, page, |to| to.copy_from_slice(bytes));
        }
        Ok(())
    }

    fn zero(&self, slot: SlotId, first: u64, count: u64) -> Result<(), MemoryError> {
        (first..first + count).for_each(|page| self.change(slot, page, |to| to.fill(0)));
        Ok(())
    }
}

/// What the guest knows: how often it wrote each page, and its next random number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registers {
    written: Vec<u64>,
    random: u64,
}

impl Registers {
    fn step(&mut self, ram: &Ram) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let page = self.random % PAGES;
        let index = usize::try_from(page).unwrap();
        self.written[index] += 1;
        let (slot, offset) = place(page);
        let (written, random) = (self.written[index], self.random);
        ram.change(slot, offset, |bytes| {
            bytes[..8].copy_from_slice(&written.to_le_bytes());
            // Some pages compress, some do not, some become zero but for their count.
            match random % 3 {
                0 => bytes[8..].fill(0),
                1 => bytes[8..].fill(random.to_le_bytes()[0]),
                _ => {
                    let at = 8 + usize::try_from(random % 500).unwrap() * 8;
                    bytes[at..at + 8].copy_from_slice(&random.to_le_bytes());
                }
            }
        });
    }

    fn check(&self, ram: &Ram) {
        let mut bytes = [0; PAGE];
        for (page, written) in (0..).zip(&self.written) {
            let (slot, offset) = place(page);
            ram.read(slot, offset, &mut bytes).unwrap();
            let found = u64::from_le_bytes(*bytes.first_chunk().unwrap());
            assert_eq!(found, *written, "page {page} is not as it was written last");
        }
    }
}

fn place(page: u64) -> (SlotId, u64) {
    if page < PAGES / 2 { (SlotId::new(0, 0), page) } else { (SlotId::new(0, 1), page - PAGES / 2) }
}

struct Shared {
    registers: Mutex<Registers>,
    ram: Ram,
    end: AtomicBool,
}

/// A machine with one vCPU, which is a thread.
pub struct Machine {
    shared: Arc<Shared>,
    running: Running,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub left: Mutex<Option<bool>>,
    /// Whether others may map its memory.
    pub lends: bool,
}

impl Machine {
    pub fn new(running: &Running) -> Self {
        let registers = Registers { written: vec![0; usize::try_from(PAGES).unwrap()], random: 0x1234_5678 };
        Self::with(running, registers, Ram::new())
    }

    fn with(running: &Running, registers: Registers, ram: Ram) -> Self {
        let shared = Shared { registers: Mutex::new(registers), ram, end: AtomicBool::new(true) };
        Self {
            shared: Arc::new(shared),
            running: running.clone(),
            thread: Mutex::new(None),
            left: Mutex::new(None),
            lends: false,
        }
    }

    pub fn tracker(&self) -> Tracker {
        let vm = System::new(Profile::arm64().page_size(self.shared.ram.page_size())).create_vm();
        let mut tracker = Tracker::new(Arc::new(Logless(vm)), slots(), Method::Bitmap).unwrap();
        tracker.add_source(Box::new(self.shared.ram.log.source())).unwrap();
        tracker
    }

    pub fn identity() -> Identity {
        Identity {
            name: "toy".into(),
            hypervisor: "thread".into(),
            architecture: "any".into(),
            vcpus: 1,
            needs: vec![1],
        }
    }

    pub fn start(&self) {
        self.running.enter();
        self.shared.end.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        let thread = thread::spawn(move || {
            while !shared.end.load(Ordering::SeqCst) {
                let mut registers = shared.registers.lock().unwrap();
                (0..8).for_each(|_| registers.step(&shared.ram));
                drop(registers);
                thread::sleep(Duration::from_micros(20));
            }
        });
        *self.thread.lock().unwrap() = Some(thread);
    }

    pub fn stop(&self) {
        if let Some(thread) = self.thread.lock().unwrap().take() {
            self.shared.end.store(true, Ordering::SeqCst);
            thread.join().unwrap();
            self.running.leave();
        }
    }

    /// The guest looks at its own memory.
    pub fn check(&self) {
        let registers = self.shared.registers.lock().unwrap();
        registers.check(&self.shared.ram);
    }

    pub fn steps(&self) -> u64 {
        self.shared.registers.lock().unwrap().written.iter().sum()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The engine's VM, with no memslots of its own: all writes are the log's.
#[derive(Debug)]
struct Logless(ringmark_engine::Vm);

impl ringmark_abi::Vm for Logless {
    fn page_size(&self) -> PageSize {
        self.0.page_size()
    }
    fn check_extension(&self, cap: u32) -> Result<u64, ringmark_abi::Errno> {
        self.0.check_extension(cap)
    }
    fn enable_cap(&self, cap: &ringmark_abi::EnableCap) -> Result<(), ringmark_abi::Errno> {
        self.0.enable_cap(cap)
    }
    #[expect(unsafe_code, reason = "the trait's own")]
    unsafe fn set_user_memory_region(
        &self,
        _: &ringmark_abi::MemoryRegion,
    ) -> Result<(), ringmark_abi::Errno> {
        Ok(())
    }
    fn set_memslot_flags(&self, _: SlotId, _: u32) -> Result<(), ringmark_abi::Errno> {
        Ok(())
    }
    fn get_dirty_log(&self, _: SlotId, bitmap: &mut [u64]) -> Result<(), ringmark_abi::Errno> {
        bitmap.fill(0);
        Ok(())
    }
    fn clear_dirty_log(&self, _: SlotId, _: u64, _: u32, _: &[u64]) -> Result<(), ringmark_abi::Errno> {
        Ok(())
    }
    fn reset_dirty_rings(&self) -> Result<u32, ringmark_abi::Errno> {
        Ok(0)
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
        &self.shared.ram
    }

    fn slots(&self) -> &SlotTable {
        &self.shared.ram.slots
    }

    fn memory_file(&self) -> Result<BorrowedFd<'_>, String> {
        if self.lends { Ok(self.shared.ram.file.as_fd()) } else { Err("it lends nothing".into()) }
    }

    fn holes(&self) -> Result<DirtyPages, BoxError> {
        Ok(DirtyPages::new(&self.shared.ram.slots))
    }

    fn halt(&self) -> Halted<'_> {
        Halted(self)
    }

    fn save(&self, _: &mut Halted<'_>) -> Result<Vec<u8>, BoxError> {
        let registers = self.shared.registers.lock().unwrap();
        let words = std::iter::once(registers.random).chain(registers.written.iter().copied());
        Ok(words.flat_map(u64::to_le_bytes).collect())
    }

    fn leave(&self, _: Halted<'_>, undecided: bool) {
        *self.left.lock().unwrap() = Some(undecided);
    }
}

/// Builds machines that arrive.
pub struct Arrivals {
    pub running: Running,
    pub refuse: bool,
}

pub struct Coming {
    ram: Ram,
    /// The source may write it until this machine runs, if it has lost the link.
    adopted: bool,
    registers: Option<Registers>,
    running: Running,
}

impl Arriving for Arrivals {
    type Arrival = Coming;

    fn accept(&mut self, offer: &Offer) -> Result<Coming, Refusal> {
        if self.refuse || offer.slots.len() != 2 {
            let advice = Some("another host may".into());
            return Err(Refusal { what: "this host does not take guests".into(), advice });
        }
        Ok(Coming { ram: Ram::new(), adopted: false, registers: None, running: self.running.clone() })
    }

    fn adopts(&self, _: &Offer) -> Result<(), String> {
        Ok(())
    }

    fn adopt(&mut self, offer: &Offer, memory: MemoryFile) -> Result<Coming, Refusal> {
        Ok(Coming { ram: Ram::on(memory.into_file()), adopted: true, ..self.accept(offer)? })
    }
}

impl Arrival for Coming {
    type Machine = Machine;

    fn memory(&self) -> &dyn PageStore {
        &self.ram
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BoxError> {
        let mut words = state.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes);
        let random = words.next().ok_or("there is no state")?;
        let registers = Registers { random, written: words.collect() };
        if !self.adopted {
            registers.check(&self.ram);
        }
        self.registers = Some(registers);
        Ok(())
    }

    fn run(self) -> Result<Machine, BoxError> {
        let registers = self.registers.ok_or("there is no state")?;
        // From here on nobody else writes it.
        registers.check(&self.ram);
        let machine = Machine::with(&self.running, registers, self.ram);
        machine.start();
        Ok(machine)
    }
}
