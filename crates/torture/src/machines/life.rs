//! One machine's life, and its lives after that.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ringmark_image::{Directory, ImageId, Store};
use ringmark_machine::{Checkpoint, CheckpointError, CheckpointOptions, Loading, Machine, PauseError, Phase};
use ringmark_probe::Storm;
use ringmark_uffd::{Faults, Features, Userfaultfd};

use super::disk::{DiskFault, FaultyDisk};
use super::random::{config, restoring};
use crate::Hypervisor;
use crate::failure::{OrTrouble, Trouble};
use crate::tally::Tally;

/// For the guest to check itself, or to write at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two rounds of signals at every thread.
const STORM: Duration = Duration::from_micros(300);
/// Most pages that a guest writes between two steps.
const PAGES: u64 = 2000;

/// What is done to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Checkpoint,
    BadDisk(DiskFault),
    AmidOrders,
    DamagedImage,
    DieAndComeBack,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Checkpoint,
        Self::Checkpoint,
        Self::BadDisk(DiskFault::Full),
        Self::BadDisk(DiskFault::FailedSync),
        Self::BadDisk(DiskFault::FailedRename),
        Self::BadDisk(DiskFault::KilledWriter),
        Self::AmidOrders,
        Self::DamagedImage,
        Self::DieAndComeBack,
    ];
}

struct Life<'a> {
    hypervisor: Hypervisor,
    machine: Machine,
    store: Store,
    disk: FaultyDisk,
    dir: PathBuf,
    /// Never empty: a life begins with a checkpoint.
    images: Vec<ImageId>,
    /// Whether this host has what a lazy restore needs.
    may_be_lazy: bool,
    /// Of this step alone: what a step draws does not depend on how the ones before it ended.
    rng: Rng,
    tally: &'a mut Tally,
}

/// Lives, and counts its steps in `step`.
pub(crate) fn life(
    hypervisor: Hypervisor,
    rng: &mut Rng,
    tally: &mut Tally,
    step: &mut u64,
) -> Result<(), Trouble> {
    let home =
        tempfile::Builder::new().prefix("ringmark-torture-").tempdir().or_trouble("making a directory")?;
    let dir = home.path().join("store");
    Store::create_or_open(&*dir).or_trouble("founding a store")?;
    let disk = FaultyDisk::default();
    let directory = Directory::new(&dir, Arc::new(disk.clone()));
    let store = Store::with_backend(Arc::new(directory), false).or_trouble("opening a store")?;
    let machine =
        Machine::create(config(hypervisor, rng), Box::new(io::sink())).or_trouble("making a machine")?;
    machine.resume().or_trouble("resuming a machine")?;
    let is_stormy = rng.u8(..3) == 0;
    let storm = is_stormy.then(|| Storm::start(STORM)).transpose().or_trouble("starting signals")?;
    let mut life = Life {
        hypervisor,
        machine,
        store,
        disk,
        dir,
        images: Vec::new(),
        may_be_lazy: may_be_lazy(),
        rng: rng.fork(),
        tally,
    };
    life.let_write()?;
    life.checkpoint()?;
    // Everything once, and some of it again.
    let mut steps = Vec::from(Step::ALL);
    (0..rng.usize(..Step::ALL.len())).for_each(|_| steps.push(Step::ALL[rng.usize(..Step::ALL.len())]));
    rng.shuffle(&mut steps);
    steps.extend([Step::Checkpoint, Step::DieAndComeBack]);
    for doing in steps {
        *step += 1;
        life.rng = rng.fork();
        life.let_write()?;
        life.take(doing)?;
    }
    life.tally.faults("signal_storm", u64::from(storm.is_some()));
    Ok(())
}

impl Life<'_> {
    fn take(&mut self, step: Step) -> Result<(), Trouble> {
        match step {
            Step::Checkpoint => self.checkpoint(),
            Step::BadDisk(fault) => self.checkpoint_on_a_bad_disk(fault),
            Step::AmidOrders => self.checkpoint_amid_orders(),
            Step::DamagedImage => self.damaged_image(),
            Step::DieAndComeBack => self.die_and_come_back(),
        }
    }

    /// Lets the guest write some pages more.
    fn let_write(&mut self) -> Result<(), Trouble> {
        let written = || self.machine.pages_written().unwrap_or_default();
        let goal = written() + self.rng.u64(1..PAGES);
        let begun = Instant::now();
        // A guest that idles between its bursts writes as many as it does.
        while written() < goal && begun.elapsed() < Duration::from_millis(50) {
            thread::sleep(Duration::from_micros(500));
        }
        match self.machine.outcome() {
            None => Ok(()),
            Some(outcome) => {
                Err(Trouble::unexpected("running a guest")(&format!("it has ended: {outcome:?}")))
            }
        }
    }

    fn checkpoint(&mut self) -> Result<(), Trouble> {
        let options = CheckpointOptions { full: self.rng.u8(..8) == 0, ..CheckpointOptions::default() };
        let taken = self.machine.checkpoint(&self.store, options, &mut |_| {});
        self.keep(taken.map_err(trouble_of)?);
        Ok(())
    }

    /// Takes note of a checkpoint whose audit found nothing.
    fn keep(&mut self, taken: Checkpoint) {
        let page = self.machine.facts().page_size.max(1);
        let audited = taken.audit.filter(|audit| !audit.baseline);
        self.tally.pages += audited.map_or(0, |audit| audit.bytes / page);
        self.images.push(taken.image);
    }

    /// Whatever the disk does, the guest runs on, and the pages of a failed checkpoint are in the next.
    fn checkpoint_on_a_bad_disk(&mut self, fault: DiskFault) -> Result<(), Trouble> {
        // A writer that cannot remove what a killed one left goes on all the same: only its own work is to fail.
        self.store.sweep().or_trouble("removing what killed writers left")?;
        self.disk.arm(fault, self.rng.u64(..fault.operations()));
        let taken = self.machine.checkpoint(&self.store, CheckpointOptions::default(), &mut |_| {});
        let struck = self.disk.disarm();
        if struck {
            self.tally.fault(fault.name());
        }
        match taken {
            Ok(_) if struck => Err(Trouble::Unnoticed(fault.name())),
            Ok(taken) => {
                self.keep(taken);
                Ok(())
            }
            Err(error @ CheckpointError::Escapes(_)) => Err(trouble_of(error)),
            Err(_) if struck => Ok(()),
            Err(error) => Err(trouble_of(error)),
        }
    }

    /// Meanwhile an operator pauses and resumes the guest, and asks for a second checkpoint.
    fn checkpoint_amid_orders(&mut self) -> Result<(), Trouble> {
        let Self { machine, store, rng, .. } = &mut *self;
        let waits: Vec<u64> = (0..4).map(|_| rng.u64(..5000)).collect();
        let second = Store::clone(store);
        let (taken, refused) = thread::scope(|scope| {
            let operator = scope.spawn(|| -> Result<(), PauseError> {
                for micros in waits {
                    machine.pause()?;
                    thread::sleep(Duration::from_micros(micros));
                    machine.resume()?;
                }
                Ok(())
            });
            let mut refused = None;
            let taken = machine.checkpoint(store, CheckpointOptions::default(), &mut |progress| {
                if progress.phase == Phase::Writing && refused.is_none() {
                    let answer = machine.checkpoint(&second, CheckpointOptions::default(), &mut |_| {});
                    refused = Some(matches!(answer, Err(CheckpointError::Busy)));
                }
            });
            (operator.join().map(|ended| ended.map(|()| taken)), refused)
        });
        let taken = taken.map_err(|_| Trouble::unexpected("pausing a machine")(&"a panic"))?;
        self.keep(taken.or_trouble("pausing a machine")?.map_err(trouble_of)?);
        self.tally.fault("paused_in_checkpoint");
        match refused {
            Some(false) => Err(Trouble::Unnoticed("a second checkpoint at the same time")),
            Some(true) => {
                self.tally.fault("second_checkpoint");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The machine is gone between two of its instructions; one of its images goes on.
    fn die_and_come_back(&mut self) -> Result<(), Trouble> {
        let id = self.images[self.rng.usize(..self.images.len())];
        let image = self.store.image(id).or_trouble("opening an image")?;
        self.machine.end();
        self.tally.fault("killed_machine");
        let options = restoring(self.hypervisor, &mut self.rng, self.may_be_lazy);
        let is_lazy = options.loading == Loading::Lazy;
        self.machine = Machine::restore(&self.store, &image, options, Box::new(io::sink()))
            .or_trouble("restoring a machine")?;
        self.tally.faults("lazy_restore", u64::from(is_lazy));
        // Each page's hash is compared as it is read.
        self.tally.pages += image.layout().pages();
        let memory = self.machine.check_memory().or_trouble("checking restored memory")?;
        if memory.damaged > 0 {
            return Err(Trouble::Damaged(format!("{memory:?}")));
        }
        self.machine.resume().or_trouble("resuming a machine")?;
        self.let_write()?;
        let report = self.machine.check(PATIENCE).or_trouble("a guest's own check")?;
        if report.guest.damaged > 0 || report.memory.damaged > 0 {
            return Err(Trouble::Damaged(format!("{report:?}")));
        }
        Ok(())
    }

    /// A bit of an image is turned, and back again: whoever looks at the image closely notices.
    fn damaged_image(&mut self) -> Result<(), Trouble> {
        // What a guest still waits for is not to be damaged.
        self.machine.wait_until_whole().or_trouble("loading a machine's memory")?;
        let id = self.images[self.images.len() - 1];
        let image = self.store.image(id).or_trouble("opening an image")?;
        let packs = image.summary().packs.clone();
        let Some(pack) = packs.get(self.rng.usize(..packs.len().max(1))) else { return Ok(()) };
        let path = self.dir.join("packs").join(&pack.name);
        let bit = self.rng.u64(..(pack.bytes * 8).max(1));
        turn(&path, bit).or_trouble("damaging an image")?;
        let noticed = self.store.image(id).and_then(|image| image.verify(true)).is_err();
        turn(&path, bit).or_trouble("mending an image")?;
        if !noticed {
            return Err(Trouble::Unnoticed("a damaged image"));
        }
        self.tally.fault("damaged_image");
        self.store.image(id).and_then(|image| image.verify(true)).or_trouble("verifying a whole image")?;
        Ok(())
    }
}

fn may_be_lazy() -> bool {
    Userfaultfd::open(Faults::All, Features::MISSING_SHMEM).is_ok()
}

fn turn(path: &Path, bit: u64) -> io::Result<()> {
    // Images are read-only by intention, not by permission.
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8)?;
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8)
}

fn trouble_of(error: CheckpointError) -> Trouble {
    match &error {
        CheckpointError::Escapes(found) => match found.first() {
            Some(escape) => Trouble::Escape {
                slot: escape.slot.id(),
                page: escape.offset,
                how: format!("the audit of a checkpoint: {error}"),
            },
            None => Trouble::unexpected("taking a checkpoint")(&error),
        },
        _ => Trouble::unexpected("taking a checkpoint")(&error),
    }
}
