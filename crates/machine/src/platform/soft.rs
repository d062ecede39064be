//! Machines on the software engine: guest programs as software vCPUs, under the rules of arm64.

mod commands;
mod cpu;
mod driver;
mod frames;
mod its;

use ringmark_dirty::PageSize;
use ringmark_engine::{Profile, System, Vcpu, Vm};
use ringmark_guest::{Config, Interrupts};

use super::{ControllerFrames, PlatformError, PlatformSaved, Shape};
use crate::codec;
use crate::cpu::Opaque;
use crate::ram::Ram;
use its::Its;

pub(crate) use cpu::SoftCpu;

const PART: &str = "the interrupt controller";

/// Where the interrupt controller lies.
pub(super) const FRAMES: ControllerFrames = ControllerFrames {
    distributor: frames::DISTRIBUTOR,
    redistributors: frames::REDISTRIBUTORS,
    translators: frames::TRANSLATORS,
};

/// A VM of the engine, with interrupt translation services whose tables live in guest memory.
#[derive(Debug)]
pub(crate) struct SoftPlatform {
    vm: Vm,
    its: Option<Its>,
}

impl SoftPlatform {
    /// A VM without vCPUs and memslots: the moment at which tracking is negotiated.
    ///
    /// It follows arm64's rules, the only ones with a backup bitmap beside the rings.
    pub(crate) fn new(page_size: PageSize) -> Self {
        Self { vm: System::new(Profile::arm64().page_size(page_size)).create_vm(), its: None }
    }

    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    pub(crate) fn create_vcpu(&self, index: u32) -> Result<Vcpu, PlatformError> {
        self.vm.create_vcpu(index).map_err(PlatformError::refused(format!("creating vCPU {index}")))
    }

    /// Creates the interrupt controller and does what the guest's driver does at its start. After all vCPUs and memslots,
    /// before any vCPU runs.
    pub(crate) fn create_devices(
        &mut self,
        ram: &Ram,
        shape: Shape,
        config: &Config,
        interrupts: Option<&Interrupts>,
    ) -> Result<(), PlatformError> {
        self.build(shape)?;
        if let (Some(its), Some(interrupts)) = (&self.its, interrupts) {
            its.program(ram, config, interrupts)?;
        }
        Ok(())
    }

    /// Creates the interrupt controller, switched off. After all vCPUs and memslots.
    pub(crate) fn build(&mut self, shape: Shape) -> Result<(), PlatformError> {
        self.its = Some(Its::create(&self.vm, shape)?);
        Ok(())
    }

    pub(crate) fn translators(&self) -> Option<u32> {
        self.its.as_ref().map(|its| its.shape().translators)
    }

    /// The shape of a machine whose state was saved.
    pub(crate) fn shape_of(saved: &PlatformSaved) -> Result<Option<Shape>, PlatformError> {
        let Some(registers) = registers_of(saved)? else { return Ok(None) };
        let shape = registers.shape();
        let shape = shape.ok_or_else(|| damaged("it has more parts than a machine has room for".into()))?;
        Ok(Some(shape))
    }

    /// Has the interrupt controller write its tables to guest memory, without a running vCPU: these pages are in the
    /// backup bitmap. Then reads its registers.
    pub(crate) fn save(&self) -> Result<PlatformSaved, PlatformError> {
        let registers = self.its.as_ref().map(Its::save).transpose()?;
        let devices =
            codec::encode(&registers).map_err(|what| PlatformError::State { part: PART.into(), what })?;
        Ok(PlatformSaved { devices: Opaque(devices), absent: Vec::new() })
    }

    /// Puts back what [`save`](Self::save) took, tables included. After memory and the vCPUs' state, before any runs.
    pub(crate) fn load(&self, saved: &PlatformSaved) -> Result<(), PlatformError> {
        match (registers_of(saved)?, &self.its) {
            (Some(registers), Some(its)) if registers.shape() == Some(its.shape()) => its.restore(&registers),
            (None, None) => Ok(()),
            _ => Err(damaged("it is of a machine of another shape".into())),
        }
    }
}

fn registers_of(saved: &PlatformSaved) -> Result<Option<its::Registers>, PlatformError> {
    codec::decode(&saved.devices.0).map_err(damaged)
}

fn damaged(what: String) -> PlatformError {
    PlatformError::State { part: PART.into(), what }
}
