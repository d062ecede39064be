//! A machine arrives.

use std::fmt;
use std::time::{Duration, Instant};

use ringmark_abi::mem;
use ringmark_dirty::{DirtyPages, PageSize, SlotId};
use ringmark_image::Image;
use ringmark_migrate::codec::PageStore;
use ringmark_migrate::receive::{Arrival, Arriving};
use ringmark_migrate::{MemoryFile, Offer, Refusal};
use ringmark_track::{AuditRate, BoxError, MemoryError, Wish};

use super::needs::Needs;
use super::seed;
use crate::config::{MAX_TRANSLATORS, MAX_VCPUS};
use crate::devices::{Console, attended};
use crate::layout::RamLayout;
use crate::machine::blank::{Blueprint, work};
use crate::machine::frame::{Frame, MachineParts, Vcpus, host_page_size};
use crate::machine::{CreateError, Machine, RunState};
use crate::platform::{self, Hypervisor, HypervisorWish, Shape};
use crate::ram::Ram;
use crate::saved::MachineSaved;

/// How long a source waits for the word that its guest runs, at most, until a vCPU has entered it.
const ENTERING: Duration = Duration::from_millis(100);

/// Which machines are taken, and what becomes of them.
#[derive(Clone, Debug)]
pub struct ArrivalOptions {
    /// The name of a machine that arrives; by default the one that it had.
    pub name: Option<String>,
    /// Which hypervisor runs it; it has to be the one that it ran on.
    pub hypervisor: HypervisorWish,
    /// How its writes are tracked.
    pub tracking: Wish,
    /// Whether every cut is audited, and how much of memory is watched then.
    pub audit: Option<AuditRate>,
    /// Bytes of memory at most; by default what this host has to spare.
    pub most_memory: Option<u64>,
    /// An old image of the machine: pages that are still as it has them do not come. It is read for every machine that is accepted,
    /// and decides nothing; what it is worth is found out page by page.
    pub seed: Option<Image>,
}

/// Takes machines that arrive.
pub struct Arrivals<F> {
    options: ArrivalOptions,
    console: F,
}

impl<F: FnMut() -> Console> Arrivals<F> {
    /// Takes machines as `options` has it; `console` gives each the place for its output.
    pub const fn new(options: ArrivalOptions, console: F) -> Self {
        Self { options, console }
    }

    /// The name that the machine of `offer` will have here.
    pub fn name_of(&self, offer: &Offer) -> String {
        self.options.name.clone().unwrap_or_else(|| offer.name.clone())
    }

    fn frame(&self, offer: &Offer, needs: &Needs, memory: Option<MemoryFile>) -> Result<Frame, Refusal> {
        let wish = wish_for(needs.hypervisor, &offer.architecture, self.options.hypervisor)?;
        let layout = layout_of(offer, needs.hypervisor)?;
        fits(layout.bytes(), self.options.most_memory, memory.is_some())?;
        let advised = needs.bitmaps_advised.as_deref();
        let ram = |_| {
            Ok(match memory {
                Some(memory) => Ram::adopt(layout, memory)?,
                None => Ram::new(layout)?,
            })
        };
        let frame =
            Frame::new(ram, wish, self.options.tracking, false, advised, mem::NONE).map_err(|error| {
                let advice = match error {
                    CreateError::Ram(_) => "free memory here, or send it to a host that has more",
                    CreateError::Negotiate(_) | CreateError::Track(_) => {
                        "let `ringmark receive` choose how its writes are tracked (--tracking auto)"
                    }
                    _ => "see there what `ringmark doctor` says",
                };
                refusal(error.to_string(), advice)
            })?;
        if frame.platform.hypervisor() != needs.hypervisor {
            return Err(elsewhere(needs.hypervisor, &offer.architecture, frame.platform.hypervisor().name()));
        }
        Ok(frame)
    }

    fn take(&mut self, offer: &Offer, memory: Option<MemoryFile>) -> Result<Coming, Refusal> {
        let adopted = memory.is_some();
        let needs = Needs::of(offer).map_err(|what| refusal(what, "use the same version on both sides"))?;
        let blueprint = blueprint_of(offer, &needs)?;
        let mut frame = self.frame(offer, &needs, memory)?;
        let failed = |error: CreateError| refusal(error.to_string(), "see there what `ringmark doctor` says");
        if let Some(lacking) = frame.platform.lacks(&blueprint.processor).map_err(|e| failed(e.into()))? {
            return Err(refusal(
                lacking,
                "send it to a host whose processor is the same or newer, or stop the guest and start it anew here",
            ));
        }
        let console = attended((self.console)()).map_err(|e| failed(CreateError::Thread(e)))?;
        let vcpus = frame.blank(&blueprint, console).map_err(failed)?;
        // Not of one that is refused, nor where its source could do nothing with the hashes, nor over memory that is the source's.
        let seed = self.options.seed.as_ref().filter(|_| offer.takes_hashes && !adopted);
        let seeded = seed.map(|image| seed::fill(&frame.ram, image));
        Ok(Coming {
            seeded,
            vcpus,
            frame,
            name: self.name_of(offer),
            audited: self.options.audit,
            auto: self.options.tracking == Wish::Auto,
            adopted,
            loaded: None,
        })
    }
}

impl<F: FnMut() -> Console> Arriving for Arrivals<F> {
    type Arrival = Coming;

    fn accept(&mut self, offer: &Offer) -> Result<Coming, Refusal> {
        self.take(offer, None)
    }

    fn adopts(&self, offer: &Offer) -> Result<(), String> {
        Needs::of(offer)?.leaves_memory_alone()
    }

    fn adopt(&mut self, offer: &Offer, memory: MemoryFile) -> Result<Coming, Refusal> {
        self.take(offer, Some(memory))
    }
}

/// A machine that arrives: complete but for its pages and its state.
pub struct Coming {
    // Dropped in this order: no thread may touch memory or VM after they are gone.
    vcpus: Vcpus,
    frame: Frame,
    name: String,
    audited: Option<AuditRate>,
    /// Whether what an earlier run found of its tracking still counts.
    auto: bool,
    /// Its memory is the source's, and not written here, until it runs.
    adopted: bool,
    loaded: Option<Loaded>,
    /// Pages that are as an old image has them.
    seeded: Option<DirtyPages>,
}

struct Loaded {
    guest: Option<ringmark_guest::Config>,
    bitmaps_advised: Option<String>,
    paused: bool,
}

impl Arrival for Coming {
    type Machine = Machine;

    fn memory(&self) -> &dyn PageStore {
        &self.frame.ram
    }

    fn seeded(&self) -> Option<DirtyPages> {
        self.seeded.clone()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BoxError> {
        let saved = MachineSaved::decode(state)?;
        let here = self.frame.platform.hypervisor();
        if saved.hypervisor != here {
            let found = saved.hypervisor.name();
            return Err(format!("it is of {found}, and this machine is of {}", here.name()).into());
        }
        let guest = self.frame.load(&self.vcpus, &saved)?;
        let bitmaps_advised = saved.bitmaps_advised.filter(|_| self.auto);
        self.loaded = Some(Loaded { guest, bitmaps_advised, paused: saved.paused });
        Ok(())
    }

    fn run(self) -> Result<Machine, BoxError> {
        let Self { vcpus, frame, name, audited, adopted, loaded, .. } = self;
        let Loaded { guest, bitmaps_advised, paused } = loaded.ok_or("it has no state yet")?;
        if adopted {
            frame.ram.own()?;
        }
        work(&frame.ram, guest.as_ref())?;
        let parts = MachineParts { vcpus, guest, newest: None, audited, audit: None, bitmaps_advised };
        let mut machine = frame.finish(name, parts);
        // Before the vCPUs, which may take this thread's processor as soon as they run.
        machine.start_clock()?;
        if !paused {
            machine.resume()?;
        }
        Ok(machine)
    }

    fn entered(machine: &Machine) -> Option<Instant> {
        // Whoever is paused enters nothing.
        if machine.run_state() == RunState::Running { machine.entered(ENTERING) } else { None }
    }
}

impl fmt::Debug for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coming").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for Arrivals<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Pages that arrive are marked; the machine's first checkpoint is a base in any case.
impl PageStore for crate::Ram {
    fn write(&self, slot: SlotId, first: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.fill_pages(slot, first, bytes)
    }

    fn zero(&self, slot: SlotId, first: u64, count: u64) -> Result<(), MemoryError> {
        self.zero_pages(slot, first, count)
    }
}

fn refusal(what: impl Into<String>, advice: impl Into<String>) -> Refusal {
    Refusal { what: what.into(), advice: Some(advice.into()) }
}

fn elsewhere(wanted: Hypervisor, architecture: &str, here: &str) -> Refusal {
    let wanted = wanted.name();
    refusal(
        format!(
            "it runs on {wanted} of {architecture}, and would arrive on {here} of {}",
            std::env::consts::ARCH
        ),
        format!(
            "send it to a host with {wanted} of {architecture}, received with --hypervisor {wanted} or auto"
        ),
    )
}

fn wish_for(wanted: Hypervisor, architecture: &str, wish: HypervisorWish) -> Result<HypervisorWish, Refusal> {
    if wanted == Hypervisor::Kvm && architecture != std::env::consts::ARCH {
        return Err(elsewhere(wanted, architecture, "kvm"));
    }
    match (wish, wanted) {
        (HypervisorWish::Auto | HypervisorWish::Kvm, Hypervisor::Kvm) => Ok(HypervisorWish::Kvm),
        (HypervisorWish::Auto | HypervisorWish::Engine, Hypervisor::Engine) => Ok(HypervisorWish::Engine),
        (HypervisorWish::Kvm, _) => Err(elsewhere(wanted, architecture, "kvm")),
        (HypervisorWish::Engine, _) => Err(elsewhere(wanted, architecture, "engine")),
    }
}

fn blueprint_of(offer: &Offer, needs: &Needs) -> Result<Blueprint, Refusal> {
    if offer.vcpus == 0 || offer.vcpus > MAX_VCPUS {
        let what = format!("it has {} vCPUs, and machines here have 1 to {MAX_VCPUS}", offer.vcpus);
        return Err(refusal(what, "send a machine with fewer"));
    }
    let translators = needs.translators.unwrap_or_default();
    if translators > MAX_TRANSLATORS {
        let what = format!(
            "it has {translators} interrupt translation services, and machines here have at most {MAX_TRANSLATORS}"
        );
        return Err(refusal(what, "send a machine with fewer"));
    }
    let shape = needs.translators.map(|translators| Shape { vcpus: offer.vcpus, translators });
    Ok(Blueprint { vcpus: offer.vcpus, shape, processor: needs.processor.clone() })
}

/// The layout that this monitor makes of as much memory; it has to be the offer's.
fn layout_of(offer: &Offer, hypervisor: Hypervisor) -> Result<RamLayout, Refusal> {
    let here = host_page_size().map_err(|error| refusal(error.to_string(), "send it to another host"))?;
    if PageSize::new(offer.page_bytes) != Some(here) {
        return Err(refusal(
            format!("its pages are of {} bytes, those of this host of {}", offer.page_bytes, here.bytes()),
            "send it to a host with pages of the same size",
        ));
    }
    let foreign = || {
        refusal(
            "its memory is not laid out as this monitor's machines have it",
            "use the same version on both sides",
        )
    };
    let pages = offer.slots.iter().try_fold(0_u64, |sum, slot| sum.checked_add(slot.npages));
    let bytes = pages.and_then(|pages| pages.checked_mul(here.bytes())).ok_or_else(foreign)?;
    let layout = RamLayout::new(platform::address_map(hypervisor), bytes, here)
        .map_err(|error| refusal(error.to_string(), "send a machine with memory of another size"))?;
    let offered = offer.slots.iter().map(|slot| (slot.id, slot.base, slot.npages));
    let made = layout.slots().iter().map(|slot| (slot.id.raw(), slot.base.0, slot.npages));
    if offered.eq(made) { Ok(layout) } else { Err(foreign()) }
}

/// Whether this host has room for `bytes` of guest memory, or has them already.
fn fits(bytes: u64, most: Option<u64>, here: bool) -> Result<(), Refusal> {
    let (most, whose) = match most {
        Some(most) => (most, "is allowed here (--max-memory)"),
        None if here => return Ok(()),
        None => match available() {
            Some(available) => (available, "this host has to spare"),
            None => return Ok(()),
        },
    };
    if bytes <= most {
        return Ok(());
    }
    Err(refusal(
        format!("it has {bytes} bytes of memory, more than the {most} bytes that {whose}"),
        "free memory here, allow more with `ringmark receive --max-memory`, or send it to a host that has more",
    ))
}

/// Bytes that this host can give without taking them from somebody.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}
