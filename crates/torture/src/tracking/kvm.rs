//! Small VMs on the host's KVM.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ringmark_abi::Vm;
use ringmark_dirty::RingMemory;
use ringmark_kvm::System;
use ringmark_probe::{Guest, Interrupt, Privilege, Processor, Program, Ram, Step, reset_amid_signals};
use ringmark_track::{BoxError, Method, NegotiateError};

use super::board::{Board, Cpu, Stop};
use super::shape::Shape;

pub(crate) struct KvmBoard {
    guest: Guest,
    method: Method,
    pages: u64,
    privilege: Privilege,
}

impl KvmBoard {
    pub(crate) fn new(shape: &Shape, rng: &mut Rng) -> Result<Self, BoxError> {
        let system = System::open()?;
        // Privileged guest code is emulated on some hosts, in batches that overrun a small ring.
        let privilege = if rng.bool() { Privilege::User } else { Privilege::Kernel };
        let entry = size_of::<ringmark_dirty::Entry>() as u64;
        let least = u32::try_from(system.page_size().bytes() / entry)?;
        // The least that a host takes depends on a page-modification log, whose presence only a refusal tells.
        let (guest, chosen) = match Guest::new(&system, shape.wish(least), &shape.npages) {
            Err(ringmark_probe::ProbeError::Negotiate(NegotiateError::RingRefused { .. })) => {
                Guest::new(&system, shape.wish(least.max(1024)), &shape.npages)?
            }
            other => other?,
        };
        Ok(Self { guest, method: chosen.method, pages: shape.pages(), privilege })
    }
}

impl Board for KvmBoard {
    fn vm(&self) -> Arc<dyn Vm> {
        self.guest.vm()
    }

    fn ram(&self) -> &Ram {
        self.guest.ram()
    }

    fn method(&self) -> Method {
        self.method
    }

    /// By a real signal, at about half of the time that so many entries take.
    fn interrupt(&self) -> Interrupt {
        Box::new(|vm, entries| {
            reset_amid_signals(vm, Duration::from_micros(2) + Duration::from_nanos(8) * entries)
        })
    }

    fn cpu(&self, id: u32, rng: &mut Rng) -> Result<Box<dyn Cpu>, BoxError> {
        let mut cpu = self.guest.processor(id, self.privilege)?;
        let span = 1 << rng.u32(4..=self.pages.ilog2());
        let first = rng.u64(0..=self.pages - span);
        cpu.start(Program::Scatter { first, pages: span, seed: rng.u64(..) })?;
        Ok(Box::new(KvmCpu(cpu)))
    }

    /// The kernel writes by itself on arm64 only, into the tables of an interrupt controller that small guests lack.
    fn kernel_write(&self, _: u64, _: u64) -> Result<bool, BoxError> {
        Ok(false)
    }

    fn recreate_slots(&self) -> Result<(), BoxError> {
        Ok(self.guest.recreate_slots()?)
    }

    fn play(&self, _: &mut Rng) -> Option<&'static str> {
        None
    }

    fn is_sound(&self) -> bool {
        false
    }

    fn late_flushes(&self) -> u64 {
        0
    }

    fn lost(&self) -> Vec<(u16, u64)> {
        Vec::new()
    }
}

struct KvmCpu(Processor);

impl Cpu for KvmCpu {
    fn ring_memory(&self) -> Option<Arc<dyn RingMemory>> {
        self.0.ring_memory()
    }

    fn kick(&self) -> Box<dyn Fn() + Send + Sync> {
        let kick = self.0.kick_handle();
        // A full queue of signals leaves `immediate_exit` set, and the next signal takes the vCPU out.
        Box::new(move || {
            let _ = kick.kick();
        })
    }

    fn run(&mut self) -> Result<Stop, BoxError> {
        match self.0.run()? {
            Step::RingFull => Ok(Stop::RingFull),
            Step::Interrupted => Ok(Stop::Interrupted),
            Step::Done => Err("a guest that stores for ever has ended".into()),
        }
    }

    fn settle(&mut self) -> Result<(), BoxError> {
        Ok(self.0.settle()?)
    }

    fn unkick(&mut self) {}
}
