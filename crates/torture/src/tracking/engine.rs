//! Small VMs on the software engine, which plays the faults of every known kernel.

#![allow(unsafe_code, reason = "memslots are given to the engine")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fastrand::Rng;
use ringmark_abi::{MemoryRegion, Vm as _};
use ringmark_dirty::{PageSize, RingMemory};
use ringmark_engine::{Arch, Exit, Profile, System, Vcpu, Vm, Writer};
use ringmark_probe::{Backing, Interrupt, Ram};
use ringmark_track::{BoxError, KernelWrites, Mapping, Memory as _, Method, Needs, negotiate};

use super::board::{Board, Cpu, Stop};
use super::shape::Shape;

/// Stores between two looks at whether the vCPU is to leave the guest.
const STORES: u32 = 16;

pub(crate) struct EngineBoard {
    vm: Vm,
    memory: Arc<Memory>,
    method: Method,
    pages: u64,
    late_flushes: Arc<AtomicU64>,
}

/// The memory, kept by every vCPU: one that ran without it would write where there is none.
struct Memory {
    ram: Ram,
}

impl EngineBoard {
    pub(crate) fn new(shape: &Shape, rng: &mut Rng) -> Result<Self, BoxError> {
        let profile = profile(rng);
        let page_size = profile.host_page_size();
        let reserve = 4 * profile.reserved_entries();
        let kernel_writes = match profile.arch() {
            Arch::X86 => KernelWrites::None,
            Arch::Arm64 => KernelWrites::InterruptTables,
        };
        let vm = System::new(profile).create_vm();
        let entry = size_of::<ringmark_dirty::Entry>() as u64;
        let least = u32::try_from(page_size.bytes() / entry)?.max(reserve.next_power_of_two());
        let needs = Needs { kernel_writes, mapping: Mapping::SmallPages };
        let method = negotiate(&vm, shape.wish(least), needs)?.method;
        let memory = Arc::new(Memory { ram: Ram::new(0, &shape.npages, page_size, Backing::Small)? });
        let late_flushes = Arc::new(AtomicU64::new(0));
        let board = Self { vm, memory, method, pages: shape.pages(), late_flushes };
        board.attach()?;
        board.vm.set_strict(true);
        if rng.bool() {
            let counter = Arc::clone(&board.late_flushes);
            board.vm.faults().before_reset_flush(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                // vCPUs store through translations that are stale by now.
                (0..4).for_each(|_| thread::yield_now());
            });
        }
        Ok(board)
    }

    fn attach(&self) -> Result<(), BoxError> {
        // SAFETY: the memory is kept by the board and by every vCPU, and only those write it.
        Ok(self
            .memory
            .ram
            .regions(0)
            .try_for_each(|region| unsafe { self.vm.set_user_memory_region(&region) })?)
    }
}

/// A kernel: of either architecture, with a page-modification log or without, of small or large pages.
fn profile(rng: &mut Rng) -> Profile {
    let profile = if rng.bool() { Profile::x86().pml(rng.u8(..4) == 0) } else { Profile::arm64() };
    match PageSize::new(16 << 10) {
        Some(size) if profile.arch() == Arch::Arm64 && rng.u8(..4) == 0 => profile.page_size(size),
        _ => profile,
    }
}

impl Board for EngineBoard {
    fn vm(&self) -> Arc<dyn ringmark_abi::Vm> {
        Arc::new(self.vm.clone())
    }

    fn ram(&self) -> &Ram {
        &self.memory.ram
    }

    fn method(&self) -> Method {
        self.method
    }

    /// Anywhere before the last entry.
    fn interrupt(&self) -> Interrupt {
        let vm = self.vm.clone();
        let turn = AtomicU64::new(0);
        Box::new(move |through, entries| {
            let n = turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            vm.faults().signal_next_reset_after(u32::try_from(n % u64::from(entries)).unwrap_or(0));
            through.reset_dirty_rings()
        })
    }

    fn cpu(&self, id: u32, rng: &mut Rng) -> Result<Box<dyn Cpu>, BoxError> {
        let vcpu = self.vm.create_vcpu(id)?;
        // Strict mode begins anew, so that the vCPU's pushes are remembered too.
        self.vm.set_strict(true);
        let span = rng.u64(1..=self.pages);
        let first = rng.u64(0..=self.pages - span);
        let memory = Arc::clone(&self.memory);
        Ok(Box::new(EngineCpu { vcpu, rng: rng.fork(), first, span, memory }))
    }

    fn kernel_write(&self, page: u64, value: u64) -> Result<bool, BoxError> {
        if self.vm.profile().arch() != Arch::Arm64 {
            return Ok(false);
        }
        let gpa = page * self.memory.ram.page_size().bytes();
        self.vm.device_write(gpa, &value.to_ne_bytes(), Writer::VgicTable)?;
        Ok(true)
    }

    fn recreate_slots(&self) -> Result<(), BoxError> {
        for region in self.memory.ram.regions(0) {
            // SAFETY: a deleted slot needs no memory.
            unsafe { self.vm.set_user_memory_region(&MemoryRegion { memory_size: 0, ..region }) }?;
        }
        self.attach()?;
        self.vm.set_strict(true);
        Ok(())
    }

    fn play(&self, rng: &mut Rng) -> Option<&'static str> {
        let entries = self.method.ring_entries()?;
        self.vm.faults().skip_soft_full_checks(rng.u32(entries / 2..entries * 2));
        Some("unchecked_pushes")
    }

    fn is_sound(&self) -> bool {
        true
    }

    fn late_flushes(&self) -> u64 {
        self.late_flushes.load(Ordering::Relaxed)
    }

    fn lost(&self) -> Vec<(u16, u64)> {
        self.vm.declare_complete();
        let mut lost: Vec<_> = self.vm.unreported().iter().map(|(slot, page)| (slot.id(), *page)).collect();
        lost.extend(self.vm.take_violations().iter().map(|breach| (breach.slot.id(), breach.offset)));
        lost
    }
}

struct EngineCpu {
    vcpu: Vcpu,
    rng: Rng,
    first: u64,
    span: u64,
    memory: Arc<Memory>,
}

impl Cpu for EngineCpu {
    fn ring_memory(&self) -> Option<Arc<dyn RingMemory>> {
        self.vcpu.ring_memory()
    }

    fn kick(&self) -> Box<dyn Fn() + Send + Sync> {
        let kick = self.vcpu.kicker();
        Box::new(move || kick.kick())
    }

    fn run(&mut self) -> Result<Stop, BoxError> {
        let Self { vcpu, rng, first, span, memory } = self;
        let page_bytes = memory.ram.page_size().bytes();
        let exit = match vcpu.enter() {
            Err(exit) => exit,
            Ok(mut running) => loop {
                let mut store = || {
                    // Half of the stores go to a hot eighth.
                    let span = if rng.bool() { *span } else { span.div_ceil(8) };
                    let gpa = (*first + rng.u64(..span)) * page_bytes + 8 * rng.u64(..8);
                    let data = rng.u64(..).to_ne_bytes();
                    if rng.u8(..32) == 0 {
                        running.kvm_write(gpa, &data).map(drop)
                    } else {
                        running.store(gpa, &data)
                    }
                };
                let stored = (0..STORES).try_for_each(|_| store());
                if let Err(exit) = stored.and_then(|()| running.poll()) {
                    break exit;
                }
            },
        };
        match exit {
            Exit::DirtyRingFull => Ok(Stop::RingFull),
            Exit::Interrupted => Ok(Stop::Interrupted),
            other => Err(format!("a vCPU left its program: {other:?}").into()),
        }
    }

    fn settle(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    fn unkick(&mut self) {
        self.vcpu.clear_immediate_exit();
    }
}
