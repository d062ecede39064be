//! Making the machine of an image.

use ringmark_abi::mem;
use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{DirtyPages, SlotTable};
use ringmark_image::{Image, Store};
use ringmark_track::{Audit, AuditRate, Tracker, Wish};
use ringmark_uffd::Faults;

use super::blank::{Blueprint, StateError, work};
use super::frame::{Frame, MachineParts, host_page_size};
use super::{CreateError, Machine, Newest, RestoreError};
use crate::config::MAX_VCPUS;
use crate::devices::{Console, attended};
use crate::layout::{AddressMap, RamLayout};
use crate::lazy::{self, Contents};
use crate::platform::{self, Hypervisor, HypervisorWish};
use crate::ram::{Ram, RamError};
use crate::saved::{self, MachineSaved};
use crate::shared::Share;
use crate::working_set;

/// How a machine is restored.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The restored machine's name; by default that in the image.
    pub name: Option<String>,
    /// Which hypervisor runs it; it has to be the image's.
    pub hypervisor: HypervisorWish,
    /// How its writes are tracked.
    pub tracking: Wish,
    /// Whether every cut is audited, and how much of memory is watched then.
    pub audit: Option<AuditRate>,
    /// When its memory is read.
    pub loading: Loading,
}

/// When the memory of a restored machine is read from the image. Every page's hash is checked either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loading {
    /// Before its first instruction: from then on neither the image nor its store is needed, and a damaged image is found
    /// before the guest has done anything.
    #[default]
    Eager,
    /// While it runs: it starts at once, whoever needs a page that is not there waits for it, the working set of the cut
    /// comes first and the rest in the background. Until then the machine ends if a page cannot be had. Needs userfaultfd.
    Lazy,
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
        Self::restore_from(store, image, Box::new(image.clone()), options, console)
    }

    /// As [`restore`](Self::restore), of a machine that shares its memory with others as far as it does not write it.
    ///
    /// `image` is the one whose memory is shared; when it is read is the [`SharedMemory`](crate::SharedMemory)'s choice, and
    /// [`RestoreOptions::loading`] says nothing.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing is left behind.
    pub fn restore_shared(
        store: &Store,
        image: &Image,
        share: Share,
        options: RestoreOptions,
        console: Console,
    ) -> Result<Self, RestoreError> {
        if share.image() != image.id() {
            return Err(RestoreError::OtherImage { shared: share.image(), image: image.id() });
        }
        let options = RestoreOptions { loading: share.loading(), ..options };
        Self::assemble(store, image, Pages::Shared(share), options, console)
    }

    /// As [`restore`](Self::restore), with pages that arrive lazily taken from `contents`.
    pub(crate) fn restore_from(
        store: &Store,
        image: &Image,
        contents: Box<dyn Contents>,
        options: RestoreOptions,
        console: Console,
    ) -> Result<Self, RestoreError> {
        let pages = match options.loading {
            Loading::Eager => Pages::Eager,
            Loading::Lazy => Pages::Lazy(contents),
        };
        Self::assemble(store, image, pages, options, console)
    }

    fn assemble(
        store: &Store,
        image: &Image,
        pages: Pages,
        options: RestoreOptions,
        console: Console,
    ) -> Result<Self, RestoreError> {
        let saved = MachineSaved::decode(&image.state(saved::PART)?).map_err(RestoreError::State)?;
        Self::assemble_as(saved, store, image, pages, options, console)
    }

    /// As [`restore`](Self::restore), with `saved` in place of the state in `image`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn restore_as(
        saved: MachineSaved,
        store: &Store,
        image: &Image,
        options: RestoreOptions,
        console: Console,
    ) -> Result<Self, RestoreError> {
        Self::assemble_as(saved, store, image, Pages::Eager, options, console)
    }

    fn assemble_as(
        saved: MachineSaved,
        store: &Store,
        image: &Image,
        pages: Pages,
        options: RestoreOptions,
        console: Console,
    ) -> Result<Self, RestoreError> {
        let console = attended(console).map_err(CreateError::Thread)?;
        let wish = wish_for(&saved, options.hypervisor)?;
        let layout = layout_of(image, platform::address_map(saved.hypervisor))?;
        let ram = |_| Ok(pages.ram(layout)?);
        let (tracking, advised) = (options.tracking, saved.bitmaps_advised.as_deref());
        let late = mutant::active(Mutant::TrackedAfterDevices);
        let log = if late { mem::NONE } else { mem::LOG_DIRTY_PAGES };
        let mut frame = Frame::new(ram, wish, tracking, false, advised, log)?;
        if frame.platform.hypervisor() != saved.hypervisor {
            return Err(elsewhere(&saved, frame.platform.hypervisor().name()));
        }
        match pages {
            Pages::Eager => {
                image.restore(|slot, offset, bytes| frame.ram.write_pages(slot, offset, bytes))?;
            }
            Pages::Lazy(contents) => frame.load_lazily(image, contents)?,
            Pages::Shared(share) => {
                let faults = frame.faults();
                frame.loading = share.begin(&mut frame.ram, faults)?;
            }
        }
        let arriving = frame.loading.as_ref().map(lazy::Loading::handle);
        // Whatever came of a page that is missing, the page is the reason.
        frame.complete(store, image, saved, options, console).map_err(|error| {
            arriving.and_then(|arriving| arriving.failure()).map_or(error, RestoreError::Load)
        })
    }
}

/// Where the memory of a restored machine comes from.
enum Pages {
    /// The image, now.
    Eager,
    /// The image, while the machine runs.
    Lazy(Box<dyn Contents>),
    /// A file that has the image's memory, or will have it.
    Shared(Share),
}

impl Pages {
    fn ram(&self, layout: RamLayout) -> Result<Ram, RamError> {
        match self {
            Self::Eager | Self::Lazy(_) => Ram::new(layout),
            Self::Shared(share) => Ram::shared(layout, share.file()),
        }
    }
}

/// Hashes restored memory if anything is to be compared with it: with the cut now, with the next cut later.
fn audit_of(
    ram: &Ram,
    tracker: &mut Tracker,
    rate: Option<AuditRate>,
    digest: Option<u64>,
) -> Result<Option<Audit>, RestoreError> {
    let every = digest.map(|_| AuditRate::EVERY_PAGE);
    let Some(first) = every.or(rate) else { return Ok(None) };
    let mut audit = Audit::sample(ram.slots(), ram, first)?;
    if let (Some(expected), Some(found)) = (digest, audit.digest())
        && expected != found
    {
        return Err(RestoreError::Digest { expected, found });
    }
    Ok(rate.map(|rate| {
        audit.set_rate(rate);
        audit.with_reports(tracker.remember_reports())
    }))
}

impl Frame {
    /// Lets memory arrive from `contents` from here on, the working set that `image` names first.
    fn load_lazily(&mut self, image: &Image, contents: Box<dyn Contents>) -> Result<(), RestoreError> {
        let first = working_set_of(image, self.ram.slots())?;
        let arrival = self.ram.arrive_from(contents, self.faults())?;
        self.loading = Some(lazy::Loading::start(arrival, self.ram.slots(), first)?);
        Ok(())
    }

    /// Whose faults wait for pages of this machine.
    fn faults(&self) -> Faults {
        match self.platform.hypervisor() {
            Hypervisor::Kvm => Faults::All,
            Hypervisor::Engine => Faults::UserOnly,
        }
    }

    /// The machine, once its memory is there or on its way.
    fn complete(
        mut self,
        store: &Store,
        image: &Image,
        saved: MachineSaved,
        options: RestoreOptions,
        console: Console,
    ) -> Result<Machine, RestoreError> {
        // A comparison as a whole would wait for all of memory; each page is compared as it comes.
        let digest = saved.digest.filter(|_| options.loading == Loading::Eager || options.audit.is_some());
        let vcpus = self.blank(&blueprint_of(&saved)?, console)?;
        let audit = audit_of(&self.ram, &mut self.tracker, options.audit, digest)?;
        // Before devices and vCPUs: putting their state back writes guest memory (an ITS consumes pending bits, KVM updates
        // a clock page), and that belongs to the next epoch.
        if !mutant::active(Mutant::TrackedAfterDevices) {
            self.tracker.arm_after_restore().map_err(CreateError::from)?;
        }
        let loaded = self.load(&vcpus, &saved).and_then(|guest| {
            work(&self.ram, guest.as_ref()).map_err(|e| StateError::Other(e.to_string()))?;
            Ok(guest)
        });
        let guest = loaded.map_err(|error| match error {
            StateError::Platform(error) => error.into(),
            StateError::Other(what) => RestoreError::State(what),
        })?;
        if mutant::active(Mutant::TrackedAfterDevices) {
            self.tracker.arm_after_restore().map_err(CreateError::from)?;
        }
        // Asked for another way, it is found out anew whether this one was right.
        let bitmaps_advised = saved.bitmaps_advised.filter(|_| options.tracking == Wish::Auto);
        let named = mutant::active(Mutant::NewestTakenForParent)
            .then(|| store.newest(&image.summary().vm).ok())
            .flatten();
        let parent = named.flatten().map_or(image.id(), |newest| newest.id);
        let newest = Some(Newest { image: parent, store: store.location().to_owned() });
        let name = options.name.unwrap_or_else(|| image.summary().vm.clone());
        let parts = MachineParts { vcpus, guest, newest, audited: options.audit, audit, bitmaps_advised };
        let mut machine = self.finish(name, parts);
        machine.start_clock()?;
        machine.ends_without_its_memory()?;
        Ok(machine)
    }
}

pub(crate) fn blueprint_of(saved: &MachineSaved) -> Result<Blueprint, RestoreError> {
    let vcpus = vcpus_of(saved)?;
    let shape = platform::shape_of(saved.hypervisor, &saved.platform, vcpus)?;
    if shape.is_some_and(|shape| shape.vcpus != vcpus) {
        return Err(RestoreError::State("its interrupt controller is of another number of vCPUs".into()));
    }
    let first = saved.cpus.first().map(|cpu| platform::processor_of(saved.hypervisor, cpu)).transpose()?;
    Ok(Blueprint { vcpus, shape, processor: first.unwrap_or_default() })
}

fn vcpus_of(saved: &MachineSaved) -> Result<u32, RestoreError> {
    u32::try_from(saved.cpus.len())
        .ok()
        .filter(|count| (1..=MAX_VCPUS).contains(count))
        .ok_or_else(|| RestoreError::State(format!("it has {} vCPUs", saved.cpus.len())))
}

/// The working set that `image` names, of a memory of `slots`.
pub(crate) fn working_set_of(image: &Image, slots: &SlotTable) -> Result<DirtyPages, RestoreError> {
    if !image.state_names().any(|name| name == working_set::PART) {
        return Ok(DirtyPages::new(slots));
    }
    let part = image.state(working_set::PART)?;
    working_set::decode(&part, slots).map_err(RestoreError::State)
}

/// The layout of the memory of a machine that is restored from `image`.
pub(crate) fn layout_for(image: &Image) -> Result<RamLayout, RestoreError> {
    let saved = MachineSaved::decode(&image.state(saved::PART)?).map_err(RestoreError::State)?;
    layout_of(image, platform::address_map(saved.hypervisor))
}

/// The layout that this monitor makes of the image's memory; it has to be the image's own.
fn layout_of(image: &Image, map: AddressMap) -> Result<RamLayout, RestoreError> {
    let stored = image.layout();
    let here = host_page_size()?;
    if stored.page_size() != here {
        let found = stored.page_size();
        return Err(RestoreError::Layout(format!("its pages are of {found}, those of this host of {here}")));
    }
    let layout =
        RamLayout::new(map, stored.bytes(), here).map_err(|e| RestoreError::Layout(e.to_string()))?;
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

#[cfg(test)]
mod tests {
    use std::io::sink;

    use ringmark_guest::Pattern;
    use ringmark_track::Method;

    use super::*;
    use crate::{Boot, CheckpointOptions, GuestSpec, MachineConfig};

    /// The whole way: what one run finds is in its images, and decides how the next run is tracked.
    #[test]
    fn advice_comes_with_the_image() {
        let machine = MachineConfig {
            name: "advised".into(),
            memory: 16 << 20,
            vcpus: 1,
            its: 1,
            hypervisor: HypervisorWish::Engine,
            tracking: Wish::Auto,
            boot: Boot::Guest(GuestSpec { pattern: Pattern::Uniform, hot: 1 << 20, pace: 0, seed: 7 }),
            audit: None,
        };
        let machine = Machine::create(machine, Box::new(sink())).unwrap();
        assert!(matches!(machine.facts().tracking.method, Method::RingWithBitmap { .. }));
        let found = "40 % came through the backup bitmap";
        machine.checkpoints.lock().unwrap().bitmaps_advised = Some(found.into());
        let home = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(home.path().join("store")).unwrap();
        let taken = machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {}).unwrap();
        drop(machine);

        let image = store.image(taken.image).unwrap();
        let tracked = |tracking| {
            let options = RestoreOptions {
                name: None,
                hypervisor: HypervisorWish::Engine,
                tracking,
                audit: None,
                loading: Loading::Eager,
            };
            let machine = Machine::restore(&store, &image, options, Box::new(sink())).unwrap();
            machine.facts().tracking.clone()
        };
        let next = tracked(Wish::Auto);
        assert_eq!(next.method, Method::Bitmap);
        assert!(next.why.ends_with(found), "{}", next.why);
        let asked = tracked(Wish::Ring { entries: None });
        assert!(matches!(asked.method, Method::RingWithBitmap { .. }), "{asked:?}");
    }
}
