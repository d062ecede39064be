//! Making the machine of an image.

use std::sync::Arc;

use ringmark_guest::{Config, Control, HeaderError};
use ringmark_image::{Image, Store};
use ringmark_track::{Audit, BoxError, Wish};
use vmm_sys_util::eventfd::EventFd;

use super::frame::{Frame, MachineParts, Vcpus, host_page_size};
use super::seats::{kvm_seat, soft_seat};
use super::{CreateError, Machine, Newest, RestoreError};
use crate::config::MAX_VCPUS;
use crate::devices::{Console, Ports, SerialPort, attended};
use crate::layout::RamLayout;
use crate::platform::{self, Hypervisor, HypervisorWish, KvmCpu, SoftCpu};
use crate::ram::Ram;
use crate::saved::{self, MachineSaved};
use crate::words::RamWords;

/// How a machine is restored.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The restored machine's name; by default that in the image.
    pub name: Option<String>,
    /// Which hypervisor runs it; it has to be the image's.
    pub hypervisor: HypervisorWish,
    /// How its writes are tracked.
    pub tracking: Wish,
    /// Whether every cut is audited.
    pub audit: bool,
}

impl Machine {
    /// The machine of `image`, complete and paused where it was cut. Its next checkpoint is an increment to the image.
    ///
    /// Every page's hash is checked as it is loaded; an image of an audited cut is compared with it as a whole, too.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing is left behind.
    pub fn restore(
        store: &Store,
        image: &Image,
        options: RestoreOptions,
        console: Console,
    ) -> Result<Self, RestoreError> {
        let console = attended(console).map_err(CreateError::Thread)?;
        let saved = MachineSaved::decode(&image.state(saved::PART)?).map_err(RestoreError::State)?;
        let layout = layout_of(image)?;
        let mut frame = Frame::new(layout, wish_for(&saved, options.hypervisor)?, options.tracking, false)?;
        if frame.platform.hypervisor() != saved.hypervisor {
            return Err(elsewhere(&saved, frame.platform.hypervisor().name()));
        }
        image.restore(|slot, offset, bytes| frame.ram.write_pages(slot, offset, bytes))?;
        let audit = audit_of(&frame.ram, options.audit, saved.digest)?;
        // Before devices and vCPUs: putting their state back writes guest memory (an ITS consumes pending bits, KVM updates
        // a clock page), and that belongs to the next epoch.
        frame.begin_where_image_ends()?;
        let vcpus = match saved.hypervisor {
            Hypervisor::Kvm => frame.restored_kvm_vcpus(&saved, console)?,
            Hypervisor::Engine => frame.restored_soft_vcpus(&saved, console)?,
        };
        let guest = saved.mailbox.map(|mailbox| mailbox_at(&frame.ram, mailbox)).transpose()?;
        if let Some(config) = &guest {
            // The image may be of a moment at which the guest was checking itself for a monitor that is gone.
            config
                .set_control(&mut RamWords(&frame.ram), Control::RUN)
                .map_err(|e| RestoreError::State(e.to_string()))?;
        }
        let newest = Some(Newest { image: image.id(), store: store.dir().to_owned() });
        let name = options.name.unwrap_or_else(|| image.summary().vm.clone());
        Ok(frame.finish(name, MachineParts { vcpus, guest, newest, audited: options.audit, audit })?)
    }
}

/// Hashes restored memory if anything is to be compared with it: with the cut now, with the next cut later.
fn audit_of(ram: &Ram, audited: bool, digest: Option<u64>) -> Result<Option<Audit>, RestoreError> {
    if !audited && digest.is_none() {
        return Ok(None);
    }
    let audit = Audit::begin(ram.slots(), ram)?;
    let found = audit.digest();
    match digest {
        Some(expected) if expected != found => Err(RestoreError::Digest { expected, found }),
        _ => Ok(audited.then_some(audit)),
    }
}

impl Frame {
    fn restored_kvm_vcpus(&mut self, saved: &MachineSaved, console: Console) -> Result<Vcpus, RestoreError> {
        let interrupt = self.platform.kvm()?.serial_interrupt()?;
        let ports = restored_ports(saved, Some(interrupt), console)?;
        self.platform.kvm()?.create_devices()?;
        let mut vcpus = Vec::new();
        for index in 0..vcpus_of(saved)? {
            let vcpu = self.platform.kvm()?.create_vcpu(index)?;
            let drain = self.drain(index, vcpu.ring_memory())?;
            vcpus.push((vcpu, drain));
        }
        // Interrupt controllers before the vCPUs: a local APIC's state refers to theirs.
        self.platform.kvm()?.restore(&saved.platform)?;
        let mut seats = Vec::new();
        for ((mut vcpu, drain), state) in vcpus.into_iter().zip(&saved.cpus) {
            platform::restore_vcpu(&mut vcpu, state)?;
            seats.push(kvm_seat(KvmCpu::new(vcpu, Arc::clone(&ports)), drain));
        }
        Ok(Vcpus { seats, ports })
    }

    fn restored_soft_vcpus(&mut self, saved: &MachineSaved, console: Console) -> Result<Vcpus, RestoreError> {
        let ports = restored_ports(saved, None, console)?;
        let count = vcpus_of(saved)?;
        let mut seats = Vec::new();
        for (index, state) in (0..count).zip(&saved.cpus) {
            let vcpu = self.platform.soft()?.create_vcpu(index)?;
            let drain = self.drain(index, vcpu.ring_memory())?;
            seats.push(soft_seat(SoftCpu::restore(vcpu, state)?, drain));
        }
        let ram = self.ram.clone();
        self.platform.soft()?.restore(&ram, count, &saved.platform)?;
        Ok(Vcpus { seats, ports })
    }

    /// Starts tracking with nothing dirty: memory is what the image holds, and no vCPU has run.
    fn begin_where_image_ends(&mut self) -> Result<(), RestoreError> {
        /// vCPUs that have never run need no stopping.
        struct Asleep;
        impl ringmark_track::Vcpus for Asleep {
            fn stop(&mut self) -> Result<(), BoxError> {
                Ok(())
            }
            fn resume(&mut self) -> Result<(), BoxError> {
                Ok(())
            }
        }
        let create = CreateError::from;
        self.tracker.arm().map_err(create)?;
        let cut = self.tracker.open().map_err(create)?.cut();
        let (saved, ()) = cut.stop(Asleep)?.save_devices(|_| Ok(()))?;
        saved.seal()?.resume()?.commit();
        Ok(())
    }
}

fn restored_ports(
    saved: &MachineSaved,
    interrupt: Option<EventFd>,
    console: Console,
) -> Result<Arc<Ports>, RestoreError> {
    let serial = SerialPort::restored(&saved.serial, interrupt, console).map_err(RestoreError::State)?;
    Ok(Arc::new(Ports::new(serial)))
}

fn vcpus_of(saved: &MachineSaved) -> Result<u32, RestoreError> {
    u32::try_from(saved.cpus.len())
        .ok()
        .filter(|count| (1..=MAX_VCPUS).contains(count))
        .ok_or_else(|| RestoreError::State(format!("it has {} vCPUs", saved.cpus.len())))
}

/// The layout that this monitor makes of the image's memory; it has to be the image's own.
fn layout_of(image: &Image) -> Result<RamLayout, RestoreError> {
    let stored = image.layout();
    let here = host_page_size()?;
    if stored.page_size() != here {
        let found = stored.page_size();
        return Err(RestoreError::Layout(format!("its pages are of {found}, those of this host of {here}")));
    }
    let layout = RamLayout::new(stored.bytes(), here).map_err(|e| RestoreError::Layout(e.to_string()))?;
    if !layout.slots().iter().eq(stored.slots().iter()) {
        return Err(RestoreError::Layout("its memslots are not those of this monitor's machines".into()));
    }
    Ok(layout)
}

fn wish_for(saved: &MachineSaved, wish: HypervisorWish) -> Result<HypervisorWish, RestoreError> {
    let here = std::env::consts::ARCH;
    if saved.architecture != here && saved.hypervisor == Hypervisor::Kvm {
        return Err(elsewhere(saved, here));
    }
    Ok(match (wish, saved.hypervisor) {
        (HypervisorWish::Auto, Hypervisor::Kvm) => HypervisorWish::Kvm,
        (HypervisorWish::Auto, Hypervisor::Engine) => HypervisorWish::Engine,
        (wish, _) => wish,
    })
}

fn elsewhere(saved: &MachineSaved, here: &str) -> RestoreError {
    RestoreError::Elsewhere {
        found_hypervisor: saved.hypervisor.name(),
        found_architecture: saved.architecture.clone(),
        here: here.to_owned(),
    }
}

fn mailbox_at(ram: &Ram, mailbox: u64) -> Result<Config, RestoreError> {
    Config::load(&mut RamWords(ram), mailbox)
        .map_err(|error: HeaderError<_>| RestoreError::State(error.to_string()))
}
