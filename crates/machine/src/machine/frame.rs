//! A machine before its vCPUs have state.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ringmark_abi::Vm as AbiVm;
use ringmark_dirty::{PageSize, RingMemory};
use ringmark_guest::Config;
use ringmark_track::{Audit, Chosen, Tracker, Wish, negotiate};

use super::{Checkpoints, CreateError, Facts, Machine, Newest, RunState};
use crate::clock::Clock;
use crate::devices::Ports;
use crate::layout::RamLayout;
use crate::platform::{self, HypervisorWish, Platform};
use crate::ram::Ram;
use crate::stage::Stage;
use crate::threads::{CpuThreads, Drain, Seat};

/// A machine before its vCPUs have state: devices negotiated and created, memory attached.
pub(super) struct Frame {
    // Dropped in this order where a machine cannot be completed: memory last, as `attach_memory` promised.
    pub(super) tracker: Tracker,
    pub(super) platform: Platform,
    hypervisor_why: String,
    pub(super) ram: Ram,
    tracking: Chosen,
}

impl Frame {
    pub(super) fn new(
        layout: RamLayout,
        wish: HypervisorWish,
        tracking: Wish,
        kernel: bool,
    ) -> Result<Self, CreateError> {
        let ram = Ram::new(layout)?;
        let (platform, hypervisor_why) = Platform::choose(wish, kernel, ram.layout().page_size())?;
        let vm: Arc<dyn AbiVm> = platform.vm();
        // The kernel's order: rings before vCPUs, the backup bitmap before memslots.
        let tracking = negotiate(vm.as_ref(), tracking)?;
        platform::attach_memory(&vm, &ram)?;
        let mut tracker = Tracker::new(vm, ram.slots().clone(), tracking.method)?;
        tracker.add_source(Box::new(ram.log().source()))?;
        Ok(Self { platform, hypervisor_why, ram, tracking, tracker })
    }

    /// What a full ring of `vcpu` is drained by; without rings nothing is ever full.
    pub(super) fn drain(
        &mut self,
        vcpu: u32,
        ring: Option<Arc<dyn RingMemory>>,
    ) -> Result<Drain, CreateError> {
        let Some(memory) = ring else { return Ok(Box::new(|| Ok(()))) };
        let handle = self.tracker.add_ring(vcpu, memory)?;
        Ok(Box::new(move || handle.drain().map(drop).map_err(|e| e.to_string())))
    }

    pub(super) fn finish(self, name: String, parts: MachineParts) -> Result<Machine, CreateError> {
        let Self { platform, hypervisor_why, ram, tracking, tracker } = self;
        let MachineParts { vcpus: Vcpus { seats, ports }, guest, newest, audited, audit } = parts;
        let vcpus = u32::try_from(seats.len()).unwrap_or(u32::MAX);
        let threads = CpuThreads::start(seats).map_err(CreateError::Thread)?;
        let clock = guest.map(|config| Clock::start(ram.clone(), config)).transpose();
        let clock = clock.map_err(CreateError::Thread)?;
        let facts = Facts {
            name,
            hypervisor: platform.hypervisor(),
            hypervisor_why,
            tracking,
            vcpus,
            memory: ram.layout().bytes(),
            page_size: ram.layout().page_size().bytes(),
            restored_from: newest.as_ref().map(|newest| newest.image),
        };
        let events = tracker.events();
        let stage = Stage::new(&ram);
        Ok(Machine {
            clock,
            threads,
            checkpoints: Mutex::new(Checkpoints { tracker, stage, newest, audited, audit }),
            platform,
            ports,
            ram,
            facts,
            run_state: Mutex::new(RunState::Paused),
            events,
            guest,
            checking: Mutex::default(),
            checkpoint_running: AtomicBool::new(false),
            started: Instant::now(),
        })
    }
}

/// What a machine has beside its frame.
pub(super) struct MachineParts {
    pub(super) vcpus: Vcpus,
    /// Where a built-in guest keeps its certificates.
    pub(super) guest: Option<Config>,
    /// The image it was restored from.
    pub(super) newest: Option<Newest>,
    pub(super) audited: bool,
    /// The hashes of memory as it is, if something is to be compared with them.
    pub(super) audit: Option<Audit>,
}

/// vCPUs ready to be run, and the ports that they reach.
pub(super) struct Vcpus {
    pub(super) seats: Vec<Seat>,
    pub(super) ports: Arc<Ports>,
}

/// The granule of dirty tracking on this host.
pub(super) fn host_page_size() -> Result<PageSize, CreateError> {
    PageSize::new(rustix::param::page_size() as u64).ok_or(CreateError::PageSize)
}
