//! A small monitor on the software engine: three checkpoints of a guest that never stops writing.
//!
//! `cargo run -p ringmark-track --example monitor`. On `/dev/kvm` the same code runs with `ringmark_kvm`'s `System`,
//! `Vm` and `Vcpu` in place of the engine's; only the body of [`run_vcpu`] differs.

#![allow(unsafe_code, reason = "memslots are given to the hypervisor")]

use std::error::Error;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmark_abi::{MemoryRegion, Vm as _};
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_engine::{Exit, Kick, Profile, System, Vcpu, Vm};
use ringmark_track::{
    Audit, BoxError, KernelWrites, Mapping, Memory, MemoryError, MonitorLog, Needs, RingFull, SlotLog,
    Tracker, Vcpus, Wish, negotiate,
};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

const RAM: SlotId = SlotId::new(0, 0);
const PAGES: u64 = 4096;
const VCPUS: u32 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    // Before the first vCPU and the first memslot.
    let vm = System::new(Profile::x86()).create_vm();
    // An x86-64 VM: no interrupt controller that saves tables to memory, and nothing known of how memory is mapped.
    let needs = Needs { kernel_writes: KernelWrites::None, mapping: Mapping::HugePages };
    let chosen = negotiate(&vm, Wish::Auto, needs)?;
    println!("tracking: {chosen}");

    let ram = Ram::new(&vm)?;
    let mut tracker = Tracker::new(Arc::new(vm.clone()), ram.slots.clone(), chosen.method)?;
    tracker.add_source(Box::new(ram.log.source()))?;
    let mut vcpus = Vec::new();
    for id in 0..VCPUS {
        let vcpu = vm.create_vcpu(id)?;
        let ring = vcpu.ring_memory().map(|memory| tracker.add_ring(id, memory)).transpose()?;
        vcpus.push((vcpu, ring));
    }
    tracker.arm()?;
    let mut audit = Audit::begin(&ram.slots, &ram)?;
    let mut guest = Guest::start(vcpus);

    for number in 0..3u64 {
        let mut epoch = tracker.open()?;
        // Most pages are copied while the guest runs.
        let mut copied = 0;
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(20));
            copied += ram.copy(&epoch.round()?)?.len();
        }

        let stopped = Instant::now();
        let cut = epoch.cut().stop(&mut guest)?;
        let (cut, ()) = cut.save_devices(|_| ram.save_device(number))?;
        let cut = cut.seal()?;
        let last = ram.copy(cut.pages())?.len();
        let pause = stopped.elapsed();
        // Not a part of taking checkpoints: the proof that nothing was missed.
        let escapes = audit.observe(&ram, cut.epoch_pages())?.escapes;
        let epoch = cut.resume()?;

        // Here the copies would be written out, while the guest runs; then:
        println!(
            "checkpoint {number}: {} pages ({:?}); {copied} bytes live, {last} in a pause of {pause:?}; {} escapes",
            epoch.pages().len(),
            epoch.by_source(),
            escapes.len(),
        );
        escapes.iter().for_each(|escape| println!("  {escape}"));
        epoch.commit();
    }
    tracker.events().take().iter().for_each(|event| println!("event: {event}"));
    guest.end();
    tracker.disarm()?;
    Ok(())
}

/// Guest memory in one memslot, whose writes by the monitor mark themselves.
struct Ram {
    memory: GuestMemoryMmap<SlotLog>,
    slots: SlotTable,
    log: MonitorLog,
    page_size: PageSize,
}

impl Ram {
    fn new(vm: &Vm) -> Result<Self, Box<dyn Error>> {
        let page_size = vm.page_size();
        let slots = SlotTable::new([Memslot { id: RAM, base: Gfn(0), npages: PAGES }])?;
        let log = MonitorLog::new(&slots, page_size);
        let bytes = PAGES * page_size.bytes();
        let marks = log.slot(RAM).ok_or("the log has every slot")?.clone();
        let region = MmapRegionBuilder::new_with_bitmap(usize::try_from(bytes)?, marks)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
            .build()?;
        let region = GuestRegionMmap::new(region, GuestAddress(0)).ok_or("the region wraps")?;
        let slot = MemoryRegion {
            slot: RAM,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: bytes,
            userspace_addr: region.as_ptr().expose_provenance() as u64,
        };
        // SAFETY: the mapping is owned by the value that `main` drops after the guest has ended.
        unsafe { vm.set_user_memory_region(&slot) }?;
        Ok(Self { memory: GuestMemoryMmap::from_regions(vec![region])?, slots, log, page_size })
    }

    /// The copies of `pages`, one after another.
    fn copy(&self, pages: &ringmark_dirty::DirtyPages) -> Result<Vec<u8>, MemoryError> {
        let mut page = vec![0; usize::try_from(self.page_size.bytes()).unwrap_or(0)];
        let mut copies = Vec::new();
        for (slot, offset) in pages.iter() {
            self.read(slot, offset, &mut page)?;
            copies.extend_from_slice(&page);
        }
        Ok(copies)
    }

    /// A device that keeps its state in guest memory.
    fn save_device(&self, number: u64) -> Result<(), BoxError> {
        Ok(self.memory.write_obj(number, GuestAddress(0))?)
    }
}

impl Memory for Ram {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn read(&self, slot: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        let address = GuestAddress(offset << self.page_size.shift());
        self.memory.read_slice(page, address).map_err(|error| MemoryError {
            slot,
            offset,
            error: error.into(),
        })
    }
}

/// The vCPUs' threads and the gate at which they stop.
struct Guest {
    gate: Arc<Gate>,
    kicks: Vec<Kick>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    end: bool,
    parked: usize,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the guest is stopped; false if it has ended. `reopen` runs under the lock: a kick that follows the
    /// next stop is not lost.
    fn pass(&self, reopen: impl FnOnce()) -> bool {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        state = self
            .changed
            .wait_while(state, |state| state.stop && !state.end)
            .unwrap_or_else(PoisonError::into_inner);
        state.parked -= 1;
        reopen();
        !state.end
    }
}

impl Guest {
    fn start(vcpus: Vec<(Vcpu, Option<RingFull>)>) -> Self {
        let gate = Arc::new(Gate::default());
        let kicks = vcpus.iter().map(|(vcpu, _)| vcpu.kicker()).collect();
        let threads = vcpus.into_iter().map(|(vcpu, ring)| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || run_vcpu(vcpu, ring.as_ref(), &gate))
        });
        let threads = threads.collect();
        Self { gate, kicks, threads }
    }

    fn end(self) {
        self.gate.lock().end = true;
        self.gate.changed.notify_all();
        self.kicks.iter().for_each(Kick::kick);
        for thread in self.threads {
            if thread.join().is_err() {
                eprintln!("a vCPU's thread panicked");
            }
        }
    }
}

impl Vcpus for Guest {
    fn stop(&mut self) -> Result<(), BoxError> {
        let mut state = self.gate.lock();
        state.stop = true;
        // Told first, then kicked: a vCPU that misses one sees the other.
        self.kicks.iter().for_each(Kick::kick);
        while state.parked < self.threads.len() {
            if self.threads.iter().any(JoinHandle::is_finished) {
                return Err("a vCPU's thread has ended".into());
            }
            let (next, _) = self
                .gate
                .changed
                .wait_timeout(state, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        self.gate.lock().stop = false;
        self.gate.changed.notify_all();
        Ok(())
    }
}

/// One vCPU: a guest that stores to random pages, and the exits that a monitor must know.
fn run_vcpu(mut vcpu: Vcpu, ring: Option<&RingFull>, gate: &Gate) {
    let mut random = u64::from(vcpu.id()) + 1;
    while gate.pass(|| vcpu.clear_immediate_exit()) {
        let exit = loop {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let gpa = (random >> 40) % PAGES * vcpu.vm().page_size().bytes();
            if let Err(exit) = vcpu.store(gpa, &random.to_ne_bytes()) {
                break exit;
            }
        };
        match (exit, ring) {
            (Exit::Interrupted, _) => {}
            // The store has not happened: it is repeated when the ring has room.
            (Exit::DirtyRingFull, Some(ring)) => {
                if let Err(error) = ring.drain() {
                    eprintln!("vCPU {} stops: {error}", vcpu.id());
                    return;
                }
            }
            (exit, _) => {
                eprintln!("vCPU {} stops: {exit:?}", vcpu.id());
                return;
            }
        }
    }
}
