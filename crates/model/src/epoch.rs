//! Who owns a dirty page.

use stateright::{Model, Property};

/// Pages; the last one is also the device's table.
const PAGES: usize = 2;
const VCPUS: usize = 2;
const TABLE: usize = PAGES - 1;

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A round's pages are copied before they are protected again.
    CopyBeforeReset,
    /// The guest resumes before the last entries are reset.
    ResetAfterResume,
    /// An entry is pushed before its page is made writable.
    PushBeforeWritable,
    /// A page is made writable without an entry when the ring is full.
    FullRingDrops,
    /// The bitmap is collected before the device has saved its table.
    BitmapBeforeSave,
    /// The rings are not harvested at the cut.
    NoFinalHarvest,
    /// The monitor marks a page before it writes it.
    MarkBeforeWrite,
    /// The monitor's marks are not collected.
    MarksSkipped,
    /// The pages of a failed epoch are forgotten.
    NoRollback,
    /// Of a failed epoch only the pages that were not copied come back.
    RollbackOfTheRest,
    /// The epoch is committed before its data is durable.
    CommitBeforeDurable,
    /// After a restore tracking begins when the device has its state back already.
    TrackedAfterRestore,
}

impl Broken {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::CopyBeforeReset,
        Self::ResetAfterResume,
        Self::PushBeforeWritable,
        Self::FullRingDrops,
        Self::BitmapBeforeSave,
        Self::NoFinalHarvest,
        Self::MarkBeforeWrite,
        Self::MarksSkipped,
        Self::NoRollback,
        Self::RollbackOfTheRest,
        Self::CommitBeforeDurable,
        Self::TrackedAfterRestore,
    ];
}

/// Where the epoch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The guest runs, an epoch is open.
    Open,
    /// A round has harvested and not reset.
    Harvested,
    /// A round has reset and may copy.
    Protected,
    /// Everybody is stopped.
    Stopped,
    /// The device has saved its table.
    Saved,
    /// The rings are harvested and reset.
    RingsSealed,
    /// The bitmap is collected, too.
    BitmapSealed,
    /// Everything is collected.
    Sealed,
    /// The guest runs again; the data is on its way.
    Writing,
    /// The monitor has died; nothing is left but what is durable.
    Crashed,
}

/// One state of everybody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    phase: Phase,
    /// Contents; each write is another number.
    memory: [u8; PAGES],
    durable: [u8; PAGES],
    /// Memory at the cut whose data is being written, and at the last one that was committed.
    cut: [u8; PAGES],
    committed: [u8; PAGES],
    /// Copies of this epoch.
    staged: [Option<u8>; PAGES],
    writable: [bool; PAGES],
    /// Each ring's entries; true once harvested.
    rings: [Vec<(usize, bool)>; VCPUS],
    /// A page whose entry is pushed and that is still to be made writable (only where that order is broken).
    to_map: [Option<usize>; VCPUS],
    bitmap: [bool; PAGES],
    marks: [bool; PAGES],
    /// A write of the monitor that is under way, and whether the page has changed.
    writing: Option<(usize, bool)>,
    /// Pages of the epoch, those of them that are still to be copied, and those that no epoch owns.
    epoch: [bool; PAGES],
    fresh: [bool; PAGES],
    carried: [bool; PAGES],
    writes: u8,
    epochs: u8,
    crashes: u8,
}

/// One step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A vCPU's store faults: the page is logged and made writable.
    Fault(usize, usize),
    /// The second half of a fault, where it has two.
    Map(usize),
    /// A store to a writable page.
    Store(usize),
    /// A full ring is handed over: harvested and reset.
    Drain(usize),
    /// The kernel writes the table with no vCPU running.
    KernelWrite,
    /// The monitor's write of a page begins.
    Begin(usize),
    /// It is done in memory.
    Write,
    /// It is marked.
    Mark,
    /// A round harvests the rings and the marks.
    Harvest,
    /// It resets what it has harvested.
    Reset,
    /// It copies a page.
    Copy(usize),
    /// Everybody is stopped.
    Stop,
    /// The device saves its table.
    Save,
    /// The rings are harvested and reset for the last time.
    SealRings,
    /// The bitmap is collected.
    SealBitmap,
    /// The marks are collected, and what is left is copied.
    SealMarks,
    /// The guest runs again.
    Resume,
    /// The data is durable.
    Commit,
    /// It could not be written.
    Fail,
    /// The monitor dies.
    Crash,
    /// A new one begins with what is durable.
    Restore,
}

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub struct Epochs {
    /// Entries of a vCPU's ring.
    pub ring: usize,
    /// Writes to memory, of everybody together.
    pub writes: u8,
    /// Epochs after the base.
    pub epochs: u8,
    /// How often the monitor dies.
    pub crashes: u8,
    /// What is wrong.
    pub broken: Option<Broken>,
}

impl Epochs {
    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Harvests a ring into the epoch: every entry not harvested yet.
    fn harvest(state: &mut State, vcpu: usize) {
        for (page, harvested) in &mut state.rings[vcpu] {
            if !std::mem::replace(harvested, true) {
                (state.epoch[*page], state.fresh[*page]) = (true, true);
            }
        }
    }

    /// Resets a ring: harvested entries are gone, their pages protected.
    fn reset(state: &mut State, vcpu: usize) {
        let State { rings, writable, .. } = state;
        rings[vcpu].retain(|(page, harvested)| {
            if *harvested {
                writable[*page] = false;
            }
            !harvested
        });
    }

    fn take(from: &mut [bool; PAGES], state_epoch: &mut [bool; PAGES], fresh: &mut [bool; PAGES]) {
        for page in 0..PAGES {
            if std::mem::take(&mut from[page]) {
                (state_epoch[page], fresh[page]) = (true, true);
            }
        }
    }

    fn write(state: &mut State, page: usize) {
        state.writes += 1;
        state.memory[page] = state.writes;
    }

    fn guest_runs(state: &State) -> bool {
        matches!(state.phase, Phase::Open | Phase::Harvested | Phase::Protected | Phase::Writing)
    }
}

impl Model for Epochs {
    type State = State;
    type Action = Action;

    /// The base is committed: memory is durable, every page protected.
    fn init_states(&self) -> Vec<State> {
        vec![State {
            phase: Phase::Open,
            memory: [0; PAGES],
            durable: [0; PAGES],
            cut: [0; PAGES],
            committed: [0; PAGES],
            staged: [None; PAGES],
            writable: [false; PAGES],
            rings: [const { Vec::new() }; VCPUS],
            to_map: [None; VCPUS],
            bitmap: [false; PAGES],
            marks: [false; PAGES],
            writing: None,
            epoch: [false; PAGES],
            fresh: [false; PAGES],
            carried: [false; PAGES],
            writes: 0,
            epochs: 0,
            crashes: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let may_write = state.writes < self.writes;
        if Self::guest_runs(state) {
            for vcpu in 0..VCPUS {
                let room = state.rings[vcpu].len() < self.ring;
                if state.to_map[vcpu].is_some() {
                    actions.push(Action::Map(vcpu));
                    continue;
                }
                for page in (0..PAGES).filter(|page| !state.writable[*page] && may_write) {
                    if room || self.is(Broken::FullRingDrops) {
                        actions.push(Action::Fault(vcpu, page));
                    }
                }
                // A round is the collector's, and so is a full ring: one after the other.
                if !room && matches!(state.phase, Phase::Open | Phase::Protected | Phase::Writing) {
                    actions.push(Action::Drain(vcpu));
                }
            }
            actions.extend((0..PAGES).filter(|page| state.writable[*page] && may_write).map(Action::Store));
            match state.writing {
                None if may_write => actions.extend((0..PAGES).map(Action::Begin)),
                None => {}
                Some((_, false)) => actions.push(Action::Write),
                Some((_, true)) => actions.push(Action::Mark),
            }
            if may_write {
                actions.push(Action::KernelWrite);
            }
        }
        let next: &[Action] = match state.phase {
            Phase::Open if state.epochs < self.epochs => {
                actions.push(Action::Harvest);
                &[Action::Stop]
            }
            Phase::Harvested if self.is(Broken::CopyBeforeReset) && state.fresh.contains(&true) => &[],
            Phase::Harvested => &[Action::Reset],
            Phase::Protected => &[Action::Stop],
            Phase::Stopped => &[Action::Save],
            Phase::Saved => &[Action::SealRings],
            Phase::RingsSealed => &[Action::SealBitmap],
            Phase::BitmapSealed => &[Action::SealMarks],
            Phase::Sealed => &[Action::Resume],
            Phase::Writing => &[Action::Commit, Action::Fail],
            Phase::Crashed => &[Action::Restore],
            Phase::Open => &[],
        };
        // A stop waits for the monitor's writers; a vCPU ends the fault that it is in.
        let quiet = state.writing.is_none() && state.to_map.iter().all(Option::is_none);
        actions.extend(next.iter().filter(|action| **action != Action::Stop || quiet));
        let copies = if self.is(Broken::CopyBeforeReset) { Phase::Harvested } else { Phase::Protected };
        if state.phase == copies {
            actions.extend((0..PAGES).filter(|page| state.fresh[*page]).map(Action::Copy));
        }
        if state.crashes < self.crashes && state.phase != Phase::Crashed {
            actions.push(Action::Crash);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Fault(vcpu, page) => {
                if state.rings[vcpu].len() < self.ring {
                    state.rings[vcpu].push((page, false));
                }
                if self.is(Broken::PushBeforeWritable) {
                    state.to_map[vcpu] = Some(page);
                } else {
                    state.writable[page] = true;
                }
            }
            Action::Map(vcpu) => {
                let page = state.to_map[vcpu].take()?;
                state.writable[page] = true;
            }
            Action::Store(page) => Self::write(&mut state, page),
            Action::Drain(vcpu) => {
                Self::harvest(&mut state, vcpu);
                Self::reset(&mut state, vcpu);
                // Between a cut and its commit they are the next epoch's.
                if state.phase == Phase::Writing {
                    for page in 0..PAGES {
                        let theirs = state.fresh[page];
                        state.carried[page] |= theirs;
                        state.epoch[page] = last.epoch[page];
                        state.fresh[page] = false;
                    }
                }
            }
            Action::KernelWrite => {
                Self::write(&mut state, TABLE);
                state.bitmap[TABLE] = true;
            }
            Action::Begin(page) => {
                state.marks[page] |= self.is(Broken::MarkBeforeWrite);
                state.writing = Some((page, false));
            }
            Action::Write => {
                let (page, _) = state.writing?;
                Self::write(&mut state, page);
                state.writing = Some((page, true));
            }
            Action::Mark => {
                let (page, _) = state.writing.take()?;
                state.marks[page] |= !self.is(Broken::MarkBeforeWrite);
            }
            Action::Harvest => {
                for page in 0..PAGES {
                    if std::mem::take(&mut state.carried[page]) {
                        (state.epoch[page], state.fresh[page]) = (true, true);
                    }
                }
                (0..VCPUS).for_each(|vcpu| Self::harvest(&mut state, vcpu));
                if !self.is(Broken::MarksSkipped) {
                    let State { marks, epoch, fresh, .. } = &mut state;
                    Self::take(marks, epoch, fresh);
                }
                state.phase = Phase::Harvested;
            }
            Action::Reset => {
                (0..VCPUS).for_each(|vcpu| Self::reset(&mut state, vcpu));
                state.phase = Phase::Protected;
            }
            Action::Copy(page) => {
                state.staged[page] = Some(state.memory[page]);
                state.fresh[page] = false;
            }
            Action::Stop => state.phase = Phase::Stopped,
            Action::Save => {
                if self.is(Broken::BitmapBeforeSave) {
                    let State { bitmap, epoch, fresh, .. } = &mut state;
                    Self::take(bitmap, epoch, fresh);
                }
                Self::write(&mut state, TABLE);
                state.bitmap[TABLE] = true;
                state.phase = Phase::Saved;
            }
            Action::SealRings => {
                let State { carried, epoch, fresh, .. } = &mut state;
                Self::take(carried, epoch, fresh);
                if !self.is(Broken::NoFinalHarvest) {
                    (0..VCPUS).for_each(|vcpu| Self::harvest(&mut state, vcpu));
                }
                if !self.is(Broken::ResetAfterResume) {
                    (0..VCPUS).for_each(|vcpu| Self::reset(&mut state, vcpu));
                }
                state.phase = Phase::RingsSealed;
            }
            Action::SealBitmap => {
                if !self.is(Broken::BitmapBeforeSave) {
                    let State { bitmap, epoch, fresh, .. } = &mut state;
                    Self::take(bitmap, epoch, fresh);
                }
                state.phase = Phase::BitmapSealed;
            }
            Action::SealMarks => {
                if !self.is(Broken::MarksSkipped) {
                    let State { marks, epoch, fresh, .. } = &mut state;
                    Self::take(marks, epoch, fresh);
                }
                // What is left is copied before anybody runs.
                for page in 0..PAGES {
                    if std::mem::take(&mut state.fresh[page]) {
                        state.staged[page] = Some(state.memory[page]);
                    }
                }
                state.cut = state.memory;
                state.phase = Phase::Sealed;
            }
            Action::Resume => {
                if self.is(Broken::CommitBeforeDurable) {
                    state.epoch = [false; PAGES];
                }
                state.phase = Phase::Writing;
            }
            Action::Commit => {
                for page in 0..PAGES {
                    if let Some(copy) = state.staged[page].take() {
                        state.durable[page] = copy;
                    }
                }
                state.committed = state.cut;
                self.next_epoch(&mut state);
            }
            Action::Fail => {
                for page in 0..PAGES {
                    let back = match self.broken {
                        Some(Broken::NoRollback) => false,
                        Some(Broken::RollbackOfTheRest) => state.staged[page].is_none(),
                        _ => true,
                    };
                    state.carried[page] |= state.epoch[page] && back;
                }
                state.staged = [None; PAGES];
                self.next_epoch(&mut state);
            }
            Action::Crash => {
                state.crashes += 1;
                let left = Self { crashes: 0, ..*self }.init_states().pop()?;
                state = State {
                    phase: Phase::Crashed,
                    durable: state.durable,
                    committed: state.committed,
                    memory: state.durable,
                    writes: state.writes,
                    epochs: state.epochs,
                    crashes: state.crashes,
                    ..left
                };
            }
            Action::Restore => {
                // Putting the device's state back writes its table; tracking has begun before.
                Self::write(&mut state, TABLE);
                state.bitmap[TABLE] = !self.is(Broken::TrackedAfterRestore);
                state.phase = Phase::Open;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every change has an owner", |_, state: &State| {
                (0..PAGES).all(|page| {
                    let if_committed = state.staged[page].unwrap_or(state.durable[page]);
                    state.phase == Phase::Crashed
                        || state.memory[page] == if_committed
                        || has_owner(state, page)
                })
            }),
            Property::always("a committed image is memory at its cut", |_, state: &State| {
                state.durable == state.committed
            }),
            Property::sometimes("a second image is written", |_, state: &State| {
                state.epochs > 0 && state.phase == Phase::Writing && state.staged[0].is_some()
            }),
        ]
    }
}

impl Epochs {
    fn next_epoch(&self, state: &mut State) {
        if self.is(Broken::ResetAfterResume) {
            (0..VCPUS).for_each(|vcpu| Self::reset(state, vcpu));
        }
        state.epoch = [false; PAGES];
        state.epochs += 1;
        state.phase = Phase::Open;
    }
}

/// Whether somebody will report the page: a log, whoever is about to log it, or an epoch that has not copied it.
fn has_owner(state: &State, page: usize) -> bool {
    let in_ring = state.rings.iter().flatten().any(|entry| entry.0 == page && !entry.1);
    let awaits_copy = state.fresh[page] || state.carried[page];
    let under_way = state.writing.is_some_and(|(written, changed)| written == page && changed);
    in_ring || awaits_copy || under_way || state.bitmap[page] || state.marks[page]
}
