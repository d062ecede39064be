//! Machines on the software engine: guest programs as software vCPUs, under the rules of arm64.

mod cpu;
mod its;

use ringmark_dirty::PageSize;
use ringmark_engine::{Profile, System, Vcpu, Vm};

use super::{PlatformError, PlatformSaved};
use crate::codec;
use crate::cpu::Opaque;
use crate::ram::Ram;
use its::Its;

pub(crate) use cpu::SoftCpu;

const PART: &str = "the interrupt controller";

/// A VM of the engine, with an interrupt translation service whose tables live in guest memory.
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

    /// Bytes at the end of low memory that the interrupt controller's tables take.
    pub(crate) fn table_bytes(vcpus: u32) -> u64 {
        its::Places::bytes(vcpus)
    }

    /// Creates and programs the interrupt controller. After all vCPUs and memslots, before any vCPU runs.
    pub(crate) fn create_devices(&mut self, ram: &Ram, vcpus: u32) -> Result<(), PlatformError> {
        let mut its = Its::create(&self.vm, ram, vcpus)?;
        its.program(ram)?;
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

    /// Puts back what [`save`](Self::save) took, tables included. After memory and all vCPUs, before any runs.
    pub(crate) fn restore(
        &mut self,
        ram: &Ram,
        vcpus: u32,
        saved: &PlatformSaved,
    ) -> Result<(), PlatformError> {
        let registers: Option<its::Registers> = codec::decode(&saved.devices.0)
            .map_err(|what| PlatformError::State { part: PART.into(), what })?;
        if let Some(registers) = registers {
            let its = Its::create(&self.vm, ram, vcpus)?;
            its.restore(&registers)?;
            self.its = Some(its);
        }
        Ok(())
    }
}
