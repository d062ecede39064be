//! The real `/dev/kvm`: rounds and cuts of a running guest, and no escape.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "memslots are given to the kernel")]

mod support;

use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringmark_abi::{MemoryRegion, Vm as _};
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_kvm::bindings::{KVM_MP_STATE_RUNNABLE, kvm_regs, kvm_segment};
use ringmark_kvm::{Exit, Kick, System, Vcpu, Vm};
use ringmark_track::{
    Audit, BoxError, KernelWrites, Mapping, Memory, MemoryError, MonitorLog, Needs, RingFull, SlotLog,
    Tracker, Vcpus, Wish, negotiate,
};
use support::board::Image;
use support::slot;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PROGRAM: u64 = 0x8000;
const DATA: u64 = 0x1000_0000;
const DATA_PAGES: u64 = 2048;

/// Stores to random pages for ever: the state in rax, the pages' mask in r10, their base in rdi.
///
/// `imul rax,r8; add rax,r9; mov rdx,rax; shr rdx,40; and rdx,r10; shl rdx,12; mov [rdi+rdx],rax; jmp -27`
const CODE: [u8; 27] = [
    0x49, 0x0f, 0xaf, 0xc0, 0x4c, 0x01, 0xc8, 0x48, 0x89, 0xc2, 0x48, 0xc1, 0xea, 0x28, 0x4c, 0x21, 0xd2,
    0x48, 0xc1, 0xe2, 0x0c, 0x48, 0x89, 0x04, 0x17, 0xeb, 0xe5,
];

/// Guest memory: slot 0 holds tables and program, slot 1 the data.
struct Ram {
    memory: GuestMemoryMmap<SlotLog>,
    slots: SlotTable,
    log: MonitorLog,
    page_size: PageSize,
}

impl Ram {
    fn new(vm: &Vm) -> Self {
        let page_size = vm.page_size();
        let slots = SlotTable::new([
            Memslot { id: slot(0), base: Gfn(0), npages: 16 },
            Memslot { id: slot(1), base: page_size.gfn(DATA), npages: DATA_PAGES },
        ])
        .unwrap();
        let log = MonitorLog::new(&slots, page_size);
        let regions = slots.iter().map(|slot| {
            let bytes = usize::try_from(slot.npages * page_size.bytes()).unwrap();
            let region = MmapRegionBuilder::new_with_bitmap(bytes, log.slot(slot.id).unwrap().clone())
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_SHARED | libc::MAP_ANONYMOUS)
                .build()
                .unwrap();
            GuestRegionMmap::new(region, GuestAddress(page_size.address(slot.base).unwrap())).unwrap()
        });
        let memory = GuestMemoryMmap::from_regions(regions.collect()).unwrap();
        for (slot, region) in slots.iter().zip(memory.iter()) {
            let region = MemoryRegion {
                slot: slot.id,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr().addr() as u64,
            };
            // SAFETY: the mapping lives as long as the test's guest, whose threads are joined before.
            unsafe { vm.set_user_memory_region(&region) }.unwrap();
        }
        let write = |at, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        // Present, writable, user, accessed, dirty: a walk that set the last two would dirty the tables.
        write(PML4, PDPT | 0x67);
        write(PDPT, PD | 0x67);
        (0..512).for_each(|i| write(PD + i * 8, i << 21 | 0xe7));
        memory.write_slice(&CODE, GuestAddress(PROGRAM)).unwrap();
        Self { memory, slots, log, page_size }
    }
}

impl Memory for Ram {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn read(&self, slot: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        let gfn = self.slots.get(slot).unwrap().gfn(offset).unwrap();
        self.memory
            .read_slice(page, GuestAddress(self.page_size.address(gfn).unwrap()))
            .map_err(|error| MemoryError { slot, offset, error: error.into() })
    }
}

/// A vCPU in ring 3 of long mode, at the start of the program.
fn boot(system: &System, vm: &Vm, id: u32) -> Vcpu {
    let mut vcpu = vm.create_vcpu(id).unwrap();
    vcpu.set_cpuid(&system.supported_cpuid().unwrap()).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        selector: 0x2b,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: 0x33, type_: 11, db: 0, l: 1, ..flat };
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = flat;
    }
    sregs.cr3 = PML4;
    sregs.cr4 |= 0x20;
    sregs.cr0 = 0x8001_0033;
    sregs.efer |= 0x500;
    vcpu.set_sregs(&sregs).unwrap();
    vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE).unwrap();
    let regs = kvm_regs {
        rip: PROGRAM,
        rflags: 0x3002,
        rax: u64::from(id) + 1,
        rdi: DATA,
        r8: 6_364_136_223_846_793_005,
        r9: 1_442_695_040_888_963_407,
        r10: DATA_PAGES - 1,
        ..Default::default()
    };
    vcpu.set_regs(&regs).unwrap();
    vcpu
}

#[derive(Default)]
struct Gate {
    state: Mutex<(bool, bool, usize)>,
    changed: Condvar,
}

struct Threads {
    gate: Arc<Gate>,
    kicks: Vec<Kick>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(vcpus: Vec<(Vcpu, Option<RingFull>)>) -> Self {
        let gate = Arc::new(Gate::default());
        let kicks = vcpus.iter().map(|(vcpu, _)| vcpu.kick_handle()).collect();
        let threads = vcpus.into_iter().map(|(mut vcpu, ring)| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                loop {
                    match vcpu.run().unwrap() {
                        Exit::DirtyRingFull => drop(ring.as_ref().unwrap().drain().unwrap()),
                        Exit::Interrupted => {}
                        other => panic!("{other:?}"),
                    }
                    let mut state = gate.state.lock().unwrap();
                    if state.0 {
                        assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted));
                        state.2 += 1;
                        gate.changed.notify_all();
                        state = gate.changed.wait_while(state, |state| state.0 && !state.1).unwrap();
                        state.2 -= 1;
                    }
                    if state.1 {
                        return;
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { gate, kicks, threads }
    }
}

impl Vcpus for Threads {
    fn stop(&mut self) -> Result<(), BoxError> {
        let mut state = self.gate.state.lock().unwrap();
        state.0 = true;
        for kick in &self.kicks {
            kick.kick()?;
        }
        while state.2 < self.threads.len() {
            state = self.gate.changed.wait(state).unwrap();
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        self.gate.state.lock().unwrap().0 = false;
        self.gate.changed.notify_all();
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.gate.state.lock().unwrap().1 = true;
        self.gate.changed.notify_all();
        self.kicks.iter().for_each(|kick| kick.kick().unwrap());
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn checkpoints(test: &str, wish: Wish) {
    let system = match System::open() {
        Ok(system) => system,
        Err(why) => return eprintln!("SKIPPED {test}: no /dev/kvm ({why})"),
    };
    let vm = system.create_vm().unwrap();
    let needs = Needs { kernel_writes: KernelWrites::None, mapping: Mapping::HugePages };
    let chosen = match negotiate(&vm, wish, needs) {
        Ok(chosen) => chosen,
        Err(why) => return eprintln!("SKIPPED {test}: {why}"),
    };
    vm.set_tss_address(0xfffb_d000).unwrap();
    vm.set_identity_map_address(0xfffb_c000).unwrap();
    vm.create_irqchip().unwrap();
    let ram = Ram::new(&vm);
    let mut tracker = Tracker::new(Arc::new(vm.clone()), ram.slots.clone(), chosen.method).unwrap();
    tracker.add_source(Box::new(ram.log.source())).unwrap();
    let events = tracker.events();
    let vcpus = (0..2).map(|id| {
        let vcpu = boot(&system, &vm, id);
        let ring = vcpu.ring_memory().map(|memory| tracker.add_ring(id, memory).unwrap());
        (vcpu, ring)
    });
    let vcpus = vcpus.collect();
    tracker.arm().unwrap();

    let mut image = Image::of(&ram.slots, ram.page_size);
    let mut audit = Audit::begin(&ram.slots, &ram).unwrap();
    let mut threads = Threads::start(vcpus);
    let mut written = 0;
    for number in 0..12u64 {
        let mut epoch = tracker.open().unwrap();
        for _ in 0..number % 4 {
            thread::sleep(Duration::from_millis(3));
            image.capture(&ram, &epoch.round().unwrap());
        }
        let cut = epoch.cut().stop(&mut threads).unwrap();
        ram.memory.write_obj(number, GuestAddress(DATA + number * 4096)).unwrap();
        let cut = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
        image.capture(&ram, cut.pages());
        assert_eq!(image.differences(&ram), [], "checkpoint {number} of {}", chosen.method);
        let report = audit.observe(&ram, cut.epoch_pages()).unwrap();
        assert_eq!(report.escapes, [], "checkpoint {number} of {}", chosen.method);
        let epoch = cut.resume().unwrap();
        let by_source = epoch.by_source();
        written += by_source.ring + by_source.bitmap;
        eprintln!("{}: {:?}, audit {:?}", chosen.method, by_source, report.elapsed);
        epoch.commit();
        // Something for the next epoch, also where it has no rounds.
        thread::sleep(Duration::from_millis(2));
    }
    assert!(written > 0, "the guest runs");
    drop(threads);
    // An overrun is the host's doing, and was dealt with: the audit above says so.
    events.take().iter().for_each(|event| eprintln!("{}: {event}", chosen.method));
    eprintln!("{}: {:?}", chosen.method, tracker.stats().read());
}

#[test]
fn rings() {
    checkpoints("kvm::rings", Wish::Auto);
}

#[test]
fn rings_that_fill() {
    checkpoints("kvm::rings_that_fill", Wish::Ring { entries: Some(1024) });
}

#[test]
fn bitmaps() {
    checkpoints("kvm::bitmaps", Wish::Bitmap);
}
