//! Making a new machine.

use std::sync::Arc;

use ringmark_abi::mem;
use ringmark_guest::{Config, Program};

use super::frame::{Frame, MachineParts, Vcpus, host_page_size};
use super::placement::publish;
use super::seats::{kvm_seat, soft_seat};
use super::{CreateError, Machine};
use crate::config::{Boot, GuestSpec, MAX_TRANSLATORS, MAX_VCPUS, MachineConfig};
use crate::devices::{Console, Ports, SerialPort, attended};
use crate::layout::RamLayout;
use crate::platform::{self, Hypervisor, KvmCpu, PlatformError, Shape, SoftCpu, Start};
use crate::ram::Ram;

impl Machine {
    /// A new machine, complete and paused before its first instruction. Its console's output goes to `console`.
    ///
    /// # Errors
    /// [`CreateError`]; nothing is left behind.
    pub fn create(config: MachineConfig, console: Console) -> Result<Self, CreateError> {
        let console = attended(console).map_err(CreateError::Thread)?;
        if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
            return Err(CreateError::Vcpus(config.vcpus));
        }
        if config.its > MAX_TRANSLATORS {
            return Err(CreateError::Translators(config.its));
        }
        let page_size = host_page_size()?;
        let ram = |map| Ok(Ram::new(RamLayout::new(map, config.memory, page_size)?)?);
        let kernel = matches!(config.boot, Boot::Kernel { .. });
        let mut frame = Frame::new(ram, config.hypervisor, config.tracking, kernel, None, mem::NONE)?;
        let shape = Shape { vcpus: config.vcpus, translators: config.its };
        let (vcpus, guest) = match &config.boot {
            Boot::Kernel { image, command_line } => {
                let start = platform::load_kernel(&frame.ram, shape, image, command_line)?;
                (frame.kvm_vcpus(shape, &start, false, console)?, None)
            }
            Boot::Guest(spec) => {
                let (vcpus, guest) = match frame.platform.hypervisor() {
                    Hypervisor::Kvm => frame.bare_metal(spec, shape, console)?,
                    Hypervisor::Engine => frame.software(spec, shape, console)?,
                };
                (vcpus, Some(guest))
            }
        };
        let parts = MachineParts {
            vcpus,
            guest,
            newest: None,
            audited: config.audit,
            audit: None,
            bitmaps_advised: None,
        };
        let mut machine = frame.finish(config.name, parts);
        machine.start_clock()?;
        Ok(machine)
    }
}

impl Frame {
    /// A built-in guest on `/dev/kvm`: a program on bare metal.
    fn bare_metal(
        &mut self,
        spec: &GuestSpec,
        shape: Shape,
        console: Console,
    ) -> Result<(Vcpus, Config), CreateError> {
        let publish = |end| Ok(publish(&self.ram, Hypervisor::Kvm, spec, shape, end)?.0);
        let (start, config) = platform::load_guest(&self.ram, publish)?;
        Ok((self.kvm_vcpus(shape, &start, true, console)?, config))
    }

    /// A built-in guest on the engine: the same programs, as software vCPUs.
    fn software(
        &mut self,
        spec: &GuestSpec,
        shape: Shape,
        console: Console,
    ) -> Result<(Vcpus, Config), CreateError> {
        let (config, interrupts) = publish(&self.ram, Hypervisor::Engine, spec, shape, 0)?;
        let wiring = interrupts.map(|interrupts| (config, interrupts));
        let ports = Arc::new(Ports::new(SerialPort::new(None, console)));
        let mut seats = Vec::new();
        for index in 0..shape.vcpus {
            let vcpu = self.platform.soft()?.create_vcpu(index)?;
            let ring = self.ring(index, vcpu.ring_memory())?;
            let program = Program::new(config, index.into()).map_err(PlatformError::from)?;
            let vm = self.platform.soft()?.vm().clone();
            seats.push(soft_seat(SoftCpu::new(vm, vcpu, program, wiring), ring));
        }
        let ram = self.ram.clone();
        self.platform.soft()?.create_devices(&ram, shape, &config, interrupts.as_ref())?;
        Ok((Vcpus::start(seats, ports)?, config))
    }

    /// vCPUs of `/dev/kvm`. The first is at the entry point; the others too if `all`, else they wait for its start signal.
    fn kvm_vcpus(
        &mut self,
        shape: Shape,
        start: &Start,
        all: bool,
        console: Console,
    ) -> Result<Vcpus, CreateError> {
        let kvm = self.platform.kvm_mut()?;
        let ports = Arc::new(Ports::new(SerialPort::new(Some(kvm.serial_interrupt()?), console)));
        let mut vcpus = kvm.build(shape, None)?;
        for (index, vcpu) in vcpus.iter_mut().enumerate() {
            if index == 0 || all {
                platform::enter(vcpu, start)?;
            } else {
                platform::wait_for_start(vcpu)?;
            }
        }
        let rings = self.rings(&vcpus)?;
        let seat = |(vcpu, ring)| kvm_seat(KvmCpu::new(vcpu, Arc::clone(&ports)), ring);
        let seats = vcpus.into_iter().zip(rings).map(seat).collect();
        Vcpus::start(seats, ports)
    }
}
