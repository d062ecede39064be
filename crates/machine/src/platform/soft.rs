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

pub(crate) use cpu::{SoftCpu, Wiring};

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
        let its = Its::create(&self.vm, shape)?;
        if let Some(interrupts) = interrupts {
            its.program(ram, config, interrupts)?;
        }
        self.its = Some(its);
        Ok(())
    }

    /// Has the interrupt controller write its tables to guest memory, without a running vCPU: these pages are in the
    /// backup bitmap. Then reads its registers.
    pub(crate) fn save(&self) -> Result<PlatformSaved, PlatformError> {
        let registers = self.its.as_ref().map(Its::save).transpose()?;
        let devices =
            codec::encode(&registers).map_err(|what| PlatformError::State { part: PART.into(), what })?;
        Ok(PlatformSaved { devices: Opaque(devices), absent: Vec::new() })
    }

    /// Puts back what [`save`](Self::save) took, tables included. After memory and all `vcpus`, before any runs.
    pub(crate) fn restore(&mut self, vcpus: u32, saved: &PlatformSaved) -> Result<(), PlatformError> {
        let damaged = |what: String| PlatformError::State { part: PART.into(), what };
        let registers: Option<its::Registers> = codec::decode(&saved.devices.0).map_err(damaged)?;
        if let Some(registers) = registers {
            let shape = registers.shape().filter(|shape| shape.vcpus == vcpus);
            let shape = shape.ok_or_else(|| damaged("it is of another number of vCPUs".into()))?;
            let its = Its::create(&self.vm, shape)?;
            its.restore(&registers)?;
            self.its = Some(its);
        }
        Ok(())
    }
}
