//! Making a new machine.

use std::sync::Arc;

use ringmark_guest::{Config, Control, Program};

use super::frame::{Frame, MachineParts, Vcpus, host_page_size};
use super::seats::{kvm_seat, soft_seat};
use super::{CreateError, Machine};
use crate::boot::elf;
use crate::boot::pvh::{self, Handoff};
use crate::config::{Boot, GuestSpec, MAX_VCPUS, MachineConfig};
use crate::devices::{Console, Ports, SerialPort, attended};
use crate::layout::RamLayout;
use crate::platform::{self, Hypervisor, KvmCpu, PlatformError, SoftCpu, SoftPlatform};
use crate::words::RamWords;

/// First byte that is nobody's: the first MiB belongs to the boot protocol and the mailbox.
const FIRST_FREE: u64 = 1 << 20;

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
        let layout = RamLayout::new(config.memory, host_page_size()?)?;
        let kernel = matches!(config.boot, Boot::Kernel { .. });
        let mut frame = Frame::new(layout, config.hypervisor, config.tracking, kernel)?;
        let (vcpus, guest) = match &config.boot {
            Boot::Kernel { image, command_line } => {
                let loaded = elf::load(frame.ram.guest(), image)?;
                let handoff = pvh::write(frame.ram.guest(), frame.ram.layout(), &loaded, command_line)?;
                (frame.kvm_vcpus(config.vcpus, &handoff, false, console)?, None)
            }
            Boot::Guest(spec) => {
                let (vcpus, guest) = match frame.platform.hypervisor() {
                    Hypervisor::Kvm => frame.bare_metal(spec, config.vcpus, console)?,
                    Hypervisor::Engine => frame.software(spec, config.vcpus, console)?,
                };
                (vcpus, Some(guest))
            }
        };
        let parts = MachineParts { vcpus, guest, newest: None, audited: config.audit, audit: None };
        frame.finish(config.name, parts)
    }
}

impl Frame {
    /// A built-in guest on `/dev/kvm`: a program on bare metal.
    fn bare_metal(
        &mut self,
        spec: &GuestSpec,
        vcpus: u32,
        console: Console,
    ) -> Result<(Vcpus, Config), CreateError> {
        let loaded = elf::load(self.ram.guest(), builtin_image()?)?;
        let config = self.publish(spec, vcpus, loaded.end, 0)?;
        let line = format!("ringmark.mailbox={:#x}", config.mailbox);
        let handoff = pvh::write(self.ram.guest(), self.ram.layout(), &loaded, &line)?;
        Ok((self.kvm_vcpus(vcpus, &handoff, true, console)?, config))
    }

    /// A built-in guest on the engine: the same programs, as software vCPUs.
    fn software(
        &mut self,
        spec: &GuestSpec,
        vcpus: u32,
        console: Console,
    ) -> Result<(Vcpus, Config), CreateError> {
        let config = self.publish(spec, vcpus, FIRST_FREE, SoftPlatform::table_bytes(vcpus))?;
        let ports = Arc::new(Ports::new(SerialPort::new(None, console)));
        let mut seats = Vec::new();
        for index in 0..vcpus {
            let vcpu = self.platform.soft()?.create_vcpu(index)?;
            let drain = self.drain(index, vcpu.ring_memory())?;
            let program = Program::new(config, index.into()).map_err(PlatformError::from)?;
            seats.push(soft_seat(SoftCpu::new(vcpu, program), drain));
        }
        let ram = self.ram.clone();
        self.platform.soft()?.create_devices(&ram, vcpus)?;
        Ok((Vcpus { seats, ports }, config))
    }

    /// Places a built-in guest's regions in low memory from `start` on, leaving `reserved` bytes at its end, and writes its
    /// mailbox.
    fn publish(
        &self,
        spec: &GuestSpec,
        vcpus: u32,
        start: u64,
        reserved: u64,
    ) -> Result<Config, CreateError> {
        let page_size = self.ram.layout().page_size();
        let low = self.ram.layout().ranges().next().map_or(0, |(_, start, size)| start + size);
        let blank = Config {
            mailbox: ringmark_guest::MAILBOX,
            page_size: page_size.bytes(),
            hot: 0,
            pages: page_size.pages_in(spec.hot),
            ledger: 0,
            writers: vcpus.into(),
            pattern: spec.pattern,
            pace: spec.pace,
            seed: spec.seed,
        };
        let config =
            blank.place(start.max(FIRST_FREE), low.saturating_sub(reserved)).map_err(PlatformError::from)?;
        config
            .publish(&mut RamWords(&self.ram), Control::RUN)
            .map_err(|e| CreateError::Mailbox(e.to_string()))?;
        Ok(config)
    }

    /// vCPUs of `/dev/kvm`. The first is at the PVH entry; the others too if `all`, else they wait for its start signal.
    fn kvm_vcpus(
        &mut self,
        vcpus: u32,
        handoff: &Handoff,
        all: bool,
        console: Console,
    ) -> Result<Vcpus, CreateError> {
        let interrupt = self.platform.kvm()?.serial_interrupt()?;
        let ports = Arc::new(Ports::new(SerialPort::new(Some(interrupt), console)));
        self.platform.kvm()?.create_devices()?;
        let mut seats = Vec::new();
        for index in 0..vcpus {
            let mut vcpu = self.platform.kvm()?.create_vcpu(index)?;
            let drain = self.drain(index, vcpu.ring_memory())?;
            if index == 0 || all {
                platform::enter_pvh(&mut vcpu, handoff)?;
            }
            seats.push(kvm_seat(KvmCpu::new(vcpu, Arc::clone(&ports)), drain));
        }
        Ok(Vcpus { seats, ports })
    }
}

#[cfg(target_arch = "x86_64")]
fn builtin_image() -> Result<&'static [u8], CreateError> {
    Ok(ringmark_guest::X86_64_PVH)
}

#[cfg(not(target_arch = "x86_64"))]
fn builtin_image() -> Result<&'static [u8], CreateError> {
    Err(PlatformError::Architecture.into())
}
