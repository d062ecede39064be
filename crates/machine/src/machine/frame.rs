//! A machine before its vCPUs have state.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ringmark_abi::Vm as AbiVm;
use ringmark_dirty::{PageSize, RingMemory};
use ringmark_guest::Config;
use ringmark_kvm::Vcpu;
use ringmark_track::{Advisor, Audit, AuditRate, Chosen, Needs, NegotiateError, Tracker, Wish, negotiate};

use super::{Checkpoints, CreateError, Facts, Machine, Newest, RunState};
use crate::clock::Clock;
use crate::devices::Ports;
use crate::layout::AddressMap;
use crate::lazy::Loading;
use crate::platform::{self, HypervisorWish, Platform};
use crate::ram::Ram;
use crate::stage::Stage;
use crate::threads::{CpuThreads, Seat, VcpuRing};

/// A machine before its vCPUs have state: devices negotiated and created, memory attached.
pub(crate) struct Frame {
    // Dropped in this order where a machine cannot be completed: memory last, as `attach_memory` promised.
    pub(crate) tracker: Tracker,
    pub(crate) platform: Platform,
    hypervisor_why: String,
    /// What brings the memory of a lazily restored machine.
    pub(crate) loading: Option<Loading>,
    pub(crate) ram: Ram,
    tracking: Chosen,
    stage: Stage,
}

impl Frame {
    /// `ram` is asked for memory once it is known on which hypervisor. `bitmaps_advised` is what an earlier run found for
    /// stand-alone bitmaps.
    ///
    /// `log`: whether writes are logged from the first on (`LOG_DIRTY_PAGES`) or only once the tracker is armed
    /// (`NONE`). Whoever arms it before anything runs wants the former: switched on later, KVM walks every page of a
    /// slot where it uses shadow paging (`kvm_mmu_slot_apply_flags`), and there is nothing to protect yet.
    pub(crate) fn new(
        ram: impl FnOnce(AddressMap) -> Result<Ram, CreateError>,
        wish: HypervisorWish,
        tracking: Wish,
        kernel: bool,
        bitmaps_advised: Option<&str>,
        log: u32,
    ) -> Result<Self, CreateError> {
        let (platform, hypervisor_why) = Platform::choose(wish, kernel, host_page_size()?)?;
        let ram = ram(platform.address_map())?;
        let vm: Arc<dyn AbiVm> = platform.vm();
        // The kernel's order: rings before vCPUs, the backup bitmap before memslots.
        let tracking = agree(vm.as_ref(), tracking, platform.needs(), bitmaps_advised)?;
        platform::attach_memory(&vm, &ram, log)?;
        let mut tracker = Tracker::new(vm, ram.slots().clone(), tracking.method)?;
        tracker.add_source(Box::new(ram.log().source()))?;
        let stage = Stage::new(&ram);
        Ok(Self { platform, hypervisor_why, loading: None, ram, tracking, stage, tracker })
    }

    /// Has the ring of `vcpu`, if it has one, tracked.
    pub(crate) fn ring(
        &mut self,
        vcpu: u32,
        ring: Option<Arc<dyn RingMemory>>,
    ) -> Result<VcpuRing, CreateError> {
        Ok(VcpuRing::new(ring.map(|memory| self.tracker.add_ring(vcpu, memory)).transpose()?))
    }

    /// The rings of `vcpus`, in their order.
    pub(crate) fn rings(&mut self, vcpus: &[Vcpu]) -> Result<Vec<VcpuRing>, CreateError> {
        (0..).zip(vcpus).map(|(index, vcpu)| self.ring(index, vcpu.ring_memory())).collect()
    }

    /// The machine, paused. Its clock stands still until it is [started](Machine::start_clock).
    pub(crate) fn finish(self, name: String, parts: MachineParts) -> Machine {
        let Self { platform, hypervisor_why, loading, ram, tracking, stage, tracker } = self;
        let MachineParts { vcpus: Vcpus { threads, ports }, guest, newest, audited, audit, bitmaps_advised } =
            parts;
        let vcpus = threads.count();
        let facts = Facts {
            name,
            hypervisor: platform.hypervisor(),
            hypervisor_why,
            tracking,
            vcpus,
            memory: ram.layout().bytes(),
            page_size: ram.layout().page_size().bytes(),
            restored_from: newest.as_ref().map(|newest| newest.image),
            audit: audited,
        };
        let advisor = Advisor::new(facts.tracking.method);
        let events = tracker.events();
        Machine {
            clock: None,
            threads,
            checkpoints: Mutex::new(Checkpoints {
                tracker,
                stage,
                newest,
                audited,
                audit,
                advisor,
                bitmaps_advised,
                written_before: None,
                check: None,
                resumable: None,
            }),
            platform,
            ports,
            loading,
            ram,
            facts,
            run_state: Mutex::new(RunState::Paused),
            events,
            guest,
            checking: Mutex::default(),
            checkpoint_running: AtomicBool::new(false),
            migration_running: AtomicBool::new(false),
            prediction_running: AtomicBool::new(false),
            started: Instant::now(),
        }
    }
}

impl Machine {
    /// Starts the clock device of a machine with a built-in guest.
    pub(crate) fn start_clock(&mut self) -> Result<(), CreateError> {
        let clock = self.guest.map(|config| Clock::start(self.ram.clone(), config)).transpose();
        self.clock = clock.map_err(CreateError::Thread)?;
        Ok(())
    }
}

/// Agrees with the host how writes are tracked: as an earlier run found best, where the choice is left and the host can.
fn agree(
    vm: &dyn AbiVm,
    wish: Wish,
    needs: Needs,
    bitmaps_advised: Option<&str>,
) -> Result<Chosen, NegotiateError> {
    if let (Wish::Auto, Some(found)) = (wish, bitmaps_advised)
        && let Ok(chosen) = negotiate(vm, Wish::Bitmap, needs)
    {
        return Ok(Chosen { why: format!("an earlier run of this machine found: {found}"), ..chosen });
    }
    negotiate(vm, wish, needs)
}

/// What a machine has beside its frame.
pub(crate) struct MachineParts {
    pub(crate) vcpus: Vcpus,
    /// Where a built-in guest keeps its certificates.
    pub(crate) guest: Option<Config>,
    /// The image it was restored from.
    pub(crate) newest: Option<Newest>,
    /// The share of memory that every cut is audited by.
    pub(crate) audited: Option<AuditRate>,
    /// The hashes of memory as it is, if something is to be compared with them.
    pub(crate) audit: Option<Audit>,
    /// Why stand-alone bitmaps would cost it less, as its image has it.
    pub(crate) bitmaps_advised: Option<String>,
}

/// vCPUs whose threads wait to be let into the guest, and the ports that they reach.
pub(crate) struct Vcpus {
    pub(crate) threads: CpuThreads,
    pub(crate) ports: Arc<Ports>,
}

impl Vcpus {
    pub(crate) fn start(seats: Vec<Seat>, ports: Arc<Ports>) -> Result<Self, CreateError> {
        Ok(Self { threads: CpuThreads::start(seats).map_err(CreateError::Thread)?, ports })
    }
}

/// The granule of dirty tracking on this host.
pub(crate) fn host_page_size() -> Result<PageSize, CreateError> {
    PageSize::new(rustix::param::page_size() as u64).ok_or(CreateError::PageSize)
}

#[cfg(test)]
mod tests {
    use ringmark_engine::{Profile, System};
    use ringmark_track::{KernelWrites, Mapping, Method};

    use super::*;

    /// What an earlier run found decides where the choice is left to the machine, and nowhere else.
    #[test]
    fn advice_is_taken_by_who_asked_for_none() {
        let needs = Needs { kernel_writes: KernelWrites::InterruptTables, mapping: Mapping::SmallPages };
        let agreed = |wish, advice| {
            let vm = System::new(Profile::arm64()).create_vm();
            agree(&vm, wish, needs, advice).unwrap()
        };
        let found = Some("40 % came through the backup bitmap");
        let chosen = agreed(Wish::Auto, found);
        assert_eq!(chosen.method, Method::Bitmap);
        assert!(
            chosen.why.ends_with("an earlier run of this machine found: 40 % came through the backup bitmap")
        );
        for (wish, advice) in [(Wish::Auto, None), (Wish::Ring { entries: None }, found)] {
            assert!(matches!(agreed(wish, advice).method, Method::RingWithBitmap { .. }));
        }
    }
}
