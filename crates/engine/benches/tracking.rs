//! What tracking costs on the engine: a guest's store, a mark, a reset, a collection.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(unsafe_code, reason = "the benchmark owns the memory that it gives to the memslot")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    hint::black_box,
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringmark_abi::{EnableCap, MemoryRegion, Vm as _, cap, mem};
use ringmark_dirty::{Harvester, SlotId};
use ringmark_engine::{Profile, System, Vcpu, Vm, Writer};

const PAGE: u64 = 4096;
const SLOT: SlotId = SlotId::new(0, 0);
/// 512 MiB.
const PAGES: u64 = 1 << 17;

/// A VM with one logging slot; one VM a process run, so that its memory may stay for good.
struct Rig {
    vm: Vm,
    vcpu: Vcpu,
    memory: *mut u8,
    layout: Layout,
}

impl Rig {
    fn new(profile: Profile, ring: bool, bitmap: bool) -> Self {
        let vm = System::new(profile).create_vm();
        if ring {
            vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, 1 << 20)).expect("a ring");
        }
        if ring && bitmap {
            vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_WITH_BITMAP, 0)).expect("a bitmap");
        }
        let bytes = usize::try_from(PAGES * PAGE).expect("64 bits");
        let layout = Layout::from_size_align(bytes, 4096).expect("a layout");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let region = MemoryRegion {
            slot: SLOT,
            flags: mem::LOG_DIRTY_PAGES,
            guest_phys_addr: 0,
            memory_size: PAGES * PAGE,
            userspace_addr: memory.expose_provenance() as u64,
        };
        // SAFETY: the memory is freed after the slot is deleted.
        unsafe { vm.set_user_memory_region(&region) }.expect("a slot");
        let vcpu = vm.create_vcpu(0).expect("a vCPU");
        Self { vm, vcpu, memory, layout }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let none =
            MemoryRegion { slot: SLOT, flags: 0, guest_phys_addr: 0, memory_size: 0, userspace_addr: 0 };
        // SAFETY: deleting a slot promises nothing; the memory was allocated with this layout and nobody uses it now.
        unsafe {
            self.vm.set_user_memory_region(&none).expect("deleted");
            dealloc(self.memory, self.layout);
        }
    }
}

fn stores(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(1));
    let mut rig = Rig::new(Profile::x86(), true, false);
    let mut running = rig.vcpu.enter().expect("a run");
    group.bench_function("writable page", |b| {
        b.iter(|| running.store(black_box(64), black_box(&7u64.to_ne_bytes())));
    });
    group.bench_function("load", |b| {
        let mut word = [0; 8];
        b.iter(|| running.load(black_box(64), black_box(&mut word)));
    });
    drop(running);
    rig.vm.set_memslot_flags(SLOT, 0).expect("logging off");
    let mut running = rig.vcpu.enter().expect("a run");
    let mut page = 0;
    group.bench_function("writable page, translation not cached", |b| {
        b.iter(|| {
            page = (page + 1) % 60_000;
            running.store(page * PAGE, &7u64.to_ne_bytes())
        });
    });
    drop(running);
    group.bench_function("a whole run of one store", |b| {
        b.iter(|| rig.vcpu.store(black_box(64), black_box(&7u64.to_ne_bytes())));
    });
    group.finish();
}

fn rings(c: &mut Criterion) {
    const N: u64 = 60_000;
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(N));
    let mut rig = Rig::new(Profile::x86(), true, false);
    let slots = rig.vm.slot_table();
    let mut harvester = Harvester::new(rig.vcpu.ring_memory().expect("a ring")).expect("its size");
    let (vm, vcpu) = (rig.vm.clone(), &mut rig.vcpu);
    group.bench_function("first store, harvest and reset", |b| {
        b.iter(|| {
            let mut running = vcpu.enter().expect("a run");
            for page in 0..N {
                running.store(page * PAGE, &7u64.to_ne_bytes()).expect("room");
            }
            drop(running);
            assert_eq!(harvester.harvest(&slots).count() as u64, N);
            vm.reset_dirty_rings()
        });
    });
    group.bench_function("reset", |b| {
        b.iter_batched(
            || {
                let mut running = vcpu.enter().expect("a run");
                for page in 0..N {
                    running.store(page * PAGE, &7u64.to_ne_bytes()).expect("room");
                }
                drop(running);
                assert_eq!(harvester.harvest(&slots).count() as u64, N);
            },
            |()| vm.reset_dirty_rings(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn marks(c: &mut Criterion) {
    let mut group = c.benchmark_group("mark");
    group.throughput(Throughput::Elements(1));
    let rig = Rig::new(Profile::arm64(), true, true);
    let mut page = 0;
    group.bench_function("mark_page_dirty to the backup bitmap", |b| {
        b.iter(|| {
            page = (page + 1) % PAGES;
            rig.vm.mark_page_dirty(SLOT, page, Writer::VgicTable)
        });
    });
    group.bench_function("device_write of 8 bytes", |b| {
        b.iter(|| {
            page = (page + 1) % 1024;
            rig.vm.device_write(page * PAGE, &7u64.to_ne_bytes(), Writer::VgicTable)
        });
    });
    group.finish();
}

fn collections(c: &mut Criterion) {
    let mut group = c.benchmark_group("get_dirty_log of 512 MiB");
    let mut rig = Rig::new(Profile::x86(), false, true);
    let mut words = vec![0; usize::try_from(PAGES / 64).expect("64 bits")];
    for (name, step) in [("clean", PAGES), ("1 % dirty", 100), ("half dirty", 2)] {
        let (vm, vcpu) = (rig.vm.clone(), &mut rig.vcpu);
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    let mut running = vcpu.enter().expect("a run");
                    for page in (0..PAGES).step_by(usize::try_from(step).expect("64 bits")) {
                        running.store(page * PAGE, &7u64.to_ne_bytes()).expect("no ring");
                    }
                },
                |()| vm.get_dirty_log(SLOT, &mut words),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = stores, rings, marks, collections
}
criterion_main!(benches);
