//! vCPUs and devices before they have state, and the state that is put into them: what a restored machine and one that
//! arrives have in common.

use std::sync::Arc;

use ringmark_guest::{Config, Control, HeaderError, Interrupts};
use vm_memory::GuestMemoryError;

use super::CreateError;
use super::frame::{Frame, Vcpus};
use super::seats::{kvm_seat, soft_seat};
use crate::cpu::Wiring;
use crate::devices::{Console, Ports, SerialPort};
use crate::platform::{Hypervisor, KvmCpu, PlatformError, Processor, Shape, SoftCpu};
use crate::ram::Ram;
use crate::saved::MachineSaved;
use crate::words::RamWords;

/// What a machine whose state comes later is made of.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    pub(crate) vcpus: u32,
    /// `None` where its interrupt controller was not made.
    pub(crate) shape: Option<Shape>,
    pub(crate) processor: Processor,
}

/// State that does not fit, in the words of who found it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error("{0}")]
    Other(String),
}

impl Frame {
    /// Makes vCPUs, their threads and the devices: everything that takes time and that needs neither memory nor state.
    pub(crate) fn blank(&mut self, blueprint: &Blueprint, console: Console) -> Result<Vcpus, CreateError> {
        match self.platform.hypervisor() {
            Hypervisor::Kvm => self.blank_kvm(blueprint, console),
            Hypervisor::Engine => self.blank_soft(blueprint, console),
        }
    }

    fn blank_kvm(&mut self, blueprint: &Blueprint, console: Console) -> Result<Vcpus, CreateError> {
        let kvm = self.platform.kvm_mut()?;
        let ports = Arc::new(Ports::new(SerialPort::new(Some(kvm.serial_interrupt()?), console)));
        let shape = blueprint.shape.unwrap_or(Shape { vcpus: blueprint.vcpus, translators: 0 });
        let vcpus = kvm.build(shape, Some(&blueprint.processor))?;
        let rings = self.rings(&vcpus)?;
        let seat = |(vcpu, ring)| kvm_seat(KvmCpu::new(vcpu, Arc::clone(&ports)), ring);
        let seats = vcpus.into_iter().zip(rings).map(seat).collect();
        Vcpus::start(seats, ports)
    }

    fn blank_soft(&mut self, blueprint: &Blueprint, console: Console) -> Result<Vcpus, CreateError> {
        let ports = Arc::new(Ports::new(SerialPort::new(None, console)));
        let mut seats = Vec::new();
        for index in 0..blueprint.vcpus {
            let vcpu = self.platform.soft()?.create_vcpu(index)?;
            let ring = self.ring(index, vcpu.ring_memory())?;
            let vm = self.platform.soft()?.vm().clone();
            seats.push(soft_seat(SoftCpu::blank(vm, vcpu), ring));
        }
        if let Some(shape) = blueprint.shape {
            self.platform.soft()?.build(shape)?;
        }
        Vcpus::start(seats, ports)
    }

    /// Puts state into vCPUs and devices, with memory in place: only then can an interrupt controller read its tables, and
    /// a software vCPU find what its program is about. Interrupt tables that are consumed are written on the way.
    /// Gives back where a built-in guest keeps its certificates; before it runs it is [told to](work).
    pub(crate) fn load(&self, vcpus: &Vcpus, saved: &MachineSaved) -> Result<Option<Config>, StateError> {
        let guest = saved.mailbox.map(|mailbox| mailbox_at(&self.ram, mailbox)).transpose()?;
        let wiring = match saved.hypervisor {
            Hypervisor::Engine => guest.map(|config| wiring_of(&self.ram, config)).transpose()?.flatten(),
            Hypervisor::Kvm => None,
        };
        // An interrupt that this raises is in the controllers' state, which comes after it.
        vcpus.ports.serial().load(&saved.serial).map_err(StateError::Other)?;
        Ok(self.platform.load(&saved.platform, || vcpus.threads.load(&saved.cpus, wiring)).map(|()| guest)?)
    }
}

/// Tells a built-in guest to work: its state may be of a moment at which it was checking itself for a monitor that is gone.
pub(crate) fn work(ram: &Ram, guest: Option<&Config>) -> Result<(), GuestMemoryError> {
    guest.map_or(Ok(()), |config| config.set_control(&mut RamWords(ram), Control::RUN))
}

fn mailbox_at(ram: &Ram, mailbox: u64) -> Result<Config, StateError> {
    Config::load(&mut RamWords(ram), mailbox)
        .map_err(|error: HeaderError<_>| StateError::Other(error.to_string()))
}

/// What the programs know of the interrupt controller.
fn wiring_of(ram: &Ram, config: Config) -> Result<Wiring, StateError> {
    let interrupts = Interrupts::load(&mut RamWords(ram), &config);
    let interrupts = interrupts.map_err(|error| StateError::Other(error.to_string()))?;
    Ok(interrupts.map(|interrupts| (config, interrupts)))
}
