//! A vCPU of the engine, with a guest that is a loop in this file.

use std::sync::Arc;
use std::thread;

use ringmark_abi::{EnableCap, Errno};
use ringmark_dirty::RingMemory;
use ringmark_engine::{Exit as EngineExit, RingMapping, Running, Vcpu};

use crate::target::{Exit, Kicker, MapRequest, Mapping, Probe, Program, TestVcpu};
use crate::verdict::{Stop, Tried};

/// `KVM_DIRTY_LOG_PAGE_OFFSET`.
const RING_PAGE: u64 = 64;
/// The port of string inputs.
const PORT: u16 = 0x10;

#[derive(Debug)]
pub(super) struct EngineVcpu {
    vcpu: Vcpu,
    program: Program,
    /// Steps of the program that are complete.
    done: usize,
}

impl EngineVcpu {
    pub(super) fn new(vcpu: Vcpu) -> Self {
        Self { vcpu, program: Program::Load { gpas: vec![] }, done: 0 }
    }
}

/// The rest of `program`, from step `done` on.
fn go_on(running: &mut Running<'_>, program: &Program, done: &mut usize) -> Result<(), EngineExit> {
    match program {
        Program::Store { gpas, value } => {
            for gpa in gpas.iter().skip(*done) {
                let stored = running.store(*gpa, &value.to_le_bytes());
                // An MMIO store is complete at its exit; after every other exit the guest repeats the store.
                if matches!(stored, Ok(()) | Err(EngineExit::Mmio { .. })) {
                    *done += 1;
                }
                stored?;
            }
            Ok(())
        }
        Program::Load { gpas } => {
            for gpa in gpas.iter().skip(*done) {
                running.load(*gpa, &mut [0; 8])?;
                *done += 1;
            }
            Ok(())
        }
        Program::InputString { gpa, .. } if *done == 0 => {
            *done = 1;
            Err(running.string_in(PORT, *gpa, 1))
        }
        Program::InputString { .. } => Ok(()),
        Program::Spin => loop {
            running.poll()?;
            thread::yield_now();
        },
    }
}

impl TestVcpu for EngineVcpu {
    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.vcpu.enable_cap(cap)
    }

    fn ring(&self) -> Option<Arc<dyn RingMemory>> {
        self.vcpu.ring_memory()
    }

    fn map(&self, request: &MapRequest) -> Tried<Box<dyn Mapping>> {
        let MapRequest { first, pages, shared, exec, .. } = *request;
        let mapped = self.vcpu.map(RING_PAGE + first, pages, shared, exec);
        Ok(mapped.map(|mapping| Box::new(EngineMapping(mapping)) as Box<dyn Mapping>))
    }

    fn load(&mut self, program: &Program) -> Result<(), Stop> {
        self.program = program.clone();
        self.done = 0;
        Ok(())
    }

    fn run(&mut self) -> Result<Exit, Errno> {
        let ended = match self.vcpu.enter() {
            Ok(mut running) => go_on(&mut running, &self.program, &mut self.done),
            Err(exit) => Err(exit),
        };
        match ended {
            Ok(()) => Ok(Exit::Done),
            Err(EngineExit::DirtyRingFull) => Ok(Exit::DirtyRingFull),
            Err(EngineExit::Mmio { gpa, write: true, .. }) => Ok(Exit::MmioWrite(gpa)),
            Err(EngineExit::Mmio { gpa, .. }) => Ok(Exit::MmioRead(gpa)),
            Err(EngineExit::IoIn { .. }) => {
                if let Program::InputString { byte, .. } = self.program {
                    self.vcpu.set_io_data(&[byte])?;
                }
                Ok(Exit::Input)
            }
            Err(EngineExit::Interrupted) => {
                self.vcpu.clear_immediate_exit();
                Err(Errno::EINTR)
            }
            Err(EngineExit::Failed(errno)) => Err(errno),
        }
    }

    fn set_immediate_exit(&mut self, on: bool) {
        if on {
            self.vcpu.set_immediate_exit();
        } else {
            self.vcpu.clear_immediate_exit();
        }
    }

    fn write_wall_clock(&mut self, gpa: u64) -> Tried<()> {
        Ok(self.vcpu.set_wall_clock(gpa, 1, 0))
    }

    fn kicker(&self) -> Kicker {
        let kick = self.vcpu.kicker();
        Arc::new(move || kick.kick())
    }
}

#[derive(Debug)]
struct EngineMapping(RingMapping);

impl Mapping for EngineMapping {
    fn probe(&self, page: u64) -> Probe {
        if self.0.page(page).is_some() { Probe::Readable } else { Probe::BusError }
    }
}
