//! A program: one writer, one page write a step.

mod save;

use crate::certificate::Certificate;
use crate::config::{Config, ConfigError};
use crate::control::{Command, Control};
use crate::damage::{Damage, DamageKind, Report};
use crate::device;
use crate::inspect::judge_device;
use crate::memory::Memory;
use crate::pattern::{Pattern, Picker};
use crate::status::{self, InFlight, State};
use crate::walk::Walk;

pub use save::RestoreError;

/// Pages that one step of a check looks at.
const CHECKED_A_STEP: u64 = 64;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wrote the hot page of this index.
    Wrote(u64),
    /// Nothing: the pattern or the pace pauses.
    Idle,
    /// Checked some pages; more remain.
    Checking,
    /// Finished a check and published its result ([`check_result`](crate::check_result)).
    Checked {
        /// The check's number.
        number: u64,
        /// Disagreements found.
        damaged: u64,
    },
    /// Nothing: the control word asks for nothing new.
    Holding,
    /// Nothing, for ever: the control word says stop.
    Stopped,
}

/// The program of one vCPU.
///
/// After an error from memory, [`step`](Self::step) is simply called again: it does the same stores in the same order
/// until all of them have happened. Its state can be saved between any two calls, also after an error.
///
/// ```
/// use std::collections::HashMap;
/// use std::convert::Infallible;
/// use ringmark_guest::{Config, Control, Load, MAILBOX, Memory, Pattern, Program, Step, inspect};
///
/// struct Ram(HashMap<u64, u64>);
/// impl Load for Ram {
///     type Error = Infallible;
///     fn load(&mut self, gpa: u64) -> Result<u64, Infallible> {
///         Ok(self.0.get(&gpa).copied().unwrap_or(0))
///     }
/// }
/// impl Memory for Ram {
///     fn store(&mut self, gpa: u64, value: u64) -> Result<(), Infallible> {
///         self.0.insert(gpa, value);
///         Ok(())
///     }
/// }
///
/// let (page_size, pages, writers, pattern) = (4096, 16, 1, Pattern::Sequential);
/// let wanted = Config { mailbox: MAILBOX, page_size, hot: 0, pages, ledger: 0, writers, pattern, pace: 0, seed: 1 };
/// let config = wanted.place(0x40_0000, 0x80_0000)?;
/// let mut ram = Ram(HashMap::new());
/// let Ok(()) = config.publish(&mut ram, Control::RUN);
///
/// let mut program = Program::new(config, 0)?;
/// assert_eq!(program.step(&mut ram), Ok(Step::Wrote(0)));
/// let before = ram.0.clone();
/// for _ in 0..16 {
///     let Ok(_) = program.step(&mut ram);
/// }
/// let Ok(report) = inspect(&mut ram, &config);
/// assert_eq!(report.to_string(), "ok, 16 lanes");
///
/// // Lose what was written to the first page since.
/// ram.0.retain(|gpa, _| !(config.hot..config.hot + 4096).contains(gpa));
/// ram.0.extend(before.into_iter().filter(|(gpa, _)| (config.hot..config.hot + 4096).contains(gpa)));
/// let Ok(report) = inspect(&mut ram, &config);
/// assert!(report.to_string().contains("hot page is older than its ledger"));
/// # Ok::<(), ringmark_guest::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    config: Config,
    writer: u64,
    picker: Picker,
    idle: u64,
    written: u64,
    sequence: u64,
    sum: u64,
    device_seen: u64,
    heartbeat: u64,
    checked: u64,
    pending: Option<Pending>,
    /// What it found wrong while writing: evidence that the next write would have destroyed.
    found: Report,
    /// The state last published; not saved, so it is published again after a restore.
    shown: Option<State>,
    /// The check under way and its number; not saved, so it begins again after a restore.
    checking: Option<(u64, Walk)>,
}

/// A page write that was begun: nothing of it may be chosen anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    write: InFlight,
    stamp: u64,
    idle: u64,
}

impl Program {
    /// The program of `writer`, before its first step.
    ///
    /// # Errors
    ///
    /// What [`Config::validate`] finds, or [`ConfigError::Writer`].
    pub fn new(config: Config, writer: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let Config { pattern, pages, seed, writers, .. } = config;
        if writer >= writers {
            return Err(ConfigError::Writer { writer, writers });
        }
        Ok(Self {
            config,
            writer,
            picker: Picker::new(pattern, pages, seed, writer, writers),
            idle: 0,
            written: 0,
            sequence: 0,
            sum: 0,
            device_seen: 0,
            heartbeat: 0,
            checked: 0,
            pending: None,
            found: Report::default(),
            shown: None,
            checking: None,
        })
    }

    /// The configuration it runs with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Its index among the writers.
    #[must_use]
    pub const fn writer(&self) -> u64 {
        self.writer
    }

    /// Page writes done.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Makes a part of every further check what someone found who looks after other things than pages.
    pub fn note(&mut self, damage: Damage) {
        self.found.add(damage);
    }

    /// Does one thing: writes a page, idles, checks a few pages or waits, as the control word says.
    ///
    /// # Errors
    ///
    /// The memory's. Nothing is lost: the next call goes on with the store or load that failed.
    #[inline]
    pub fn step<M: Memory>(&mut self, memory: &mut M) -> Result<Step, M::Error> {
        let control = self.config.control(memory)?;
        self.step_by(memory, control)
    }

    /// As [`step`](Self::step), by a control word that the caller has read, to do something else by the same word
    /// before.
    ///
    /// # Errors
    ///
    /// As `step`.
    #[inline]
    pub fn step_by<M: Memory>(&mut self, memory: &mut M, control: Option<Control>) -> Result<Step, M::Error> {
        if let Some(pending) = self.pending {
            return self.write(memory, pending);
        }
        let Some(control) = control else {
            return self.wait(memory, State::Holding, Step::Holding);
        };
        match control.command {
            Command::Run => self.run(memory),
            Command::Check if control.number != self.checked => self.check(memory, control.number),
            Command::Check => self.wait(memory, State::Holding, Step::Holding),
            Command::Stop => self.wait(memory, State::Stopped, Step::Stopped),
        }
    }

    #[inline]
    fn run<M: Memory>(&mut self, memory: &mut M) -> Result<Step, M::Error> {
        self.see_device(memory)?;
        if self.idle > 0 {
            self.wait(memory, State::Running, Step::Idle)?;
            self.idle -= 1;
            return Ok(Step::Idle);
        }
        self.show(memory, State::Running)?;
        let mut picker = self.picker;
        let pick = picker.pick();
        let entry = self.config.ledger_gpa(self.writer, pick.page);
        let previous = memory.load(entry)?;
        let lane = self.config.lane_gpa(self.writer, pick.page);
        // The load would cost a fresh page a fault of its own, so only pages with something to lose are looked at.
        let seen = if previous == 0 { 0 } else { Certificate::load_sequence(memory, lane)? };
        if seen != previous {
            let (kind, gpa) = if seen < previous {
                (DamageKind::PageBehind, lane)
            } else {
                (DamageKind::LedgerBehind, entry)
            };
            self.find(kind, gpa, seen.max(previous), seen.min(previous));
        }
        let rewriting = self.config.pattern == Pattern::Rewrite;
        let sequence = if rewriting && previous != 0 { previous } else { self.sequence.wrapping_add(1) };
        let pending = Pending {
            write: InFlight { page: pick.page, sequence, previous },
            stamp: if rewriting { 0 } else { self.device_seen },
            idle: pick.idle.saturating_add(self.config.pace),
        };
        self.picker = picker;
        self.pending = Some(pending);
        self.write(memory, pending)
    }

    /// The stores of a page write, in the order that the `status` module promises.
    #[inline]
    fn write<M: Memory>(&mut self, memory: &mut M, pending: Pending) -> Result<Step, M::Error> {
        let Pending { write: InFlight { page, sequence, previous }, stamp, idle } = pending;
        let config = &self.config;
        let status = config.status_gpa(self.writer);
        memory.store(status + status::IN_FLIGHT_SEQUENCE, sequence)?;
        memory.store(status + status::IN_FLIGHT_PREVIOUS, previous)?;
        memory.store(status + status::IN_FLIGHT_PAGE, page.wrapping_add(1))?;

        let gfn = config.gfn(page);
        let certificate = Certificate { gfn, writer: self.writer, seed: config.seed, sequence, stamp };
        certificate.store(memory, config.lane_gpa(self.writer, page))?;
        memory.store(config.ledger_gpa(self.writer, page), sequence)?;

        let written = self.written.wrapping_add(1);
        let last = self.sequence.max(sequence);
        let sum = self.sum.wrapping_add(sequence).wrapping_sub(previous);
        memory.store(config.tally_gpa(self.writer), written)?;
        memory.store(status + status::SUM, sum)?;
        memory.store(status + status::SEQUENCE, last)?;
        memory.store(status + status::WRITTEN, written)?;
        memory.store(status + status::IN_FLIGHT_PAGE, 0)?;

        (self.written, self.sequence, self.sum) = (written, last, sum);
        self.idle = idle;
        self.pending = None;
        Ok(Step::Wrote(page))
    }

    /// Checks some more of its pages for check `number`; with the last of them, publishes what it found.
    fn check<M: Memory>(&mut self, memory: &mut M, number: u64) -> Result<Step, M::Error> {
        self.show(memory, State::Checking)?;
        let mut walk = match self.checking {
            Some((under_way, walk)) if under_way == number => walk,
            _ => Walk::new(self.writer, None),
        };
        let done = walk.advance(memory, &self.config, CHECKED_A_STEP);
        self.checking = Some((number, walk));
        if !done? {
            return self.wait(memory, State::Checking, Step::Checking);
        }
        let mut report = self.found;
        report.absorb(&walk.report);
        for damage in self.totals(memory, &walk)?.into_iter().flatten() {
            report.add(damage);
        }
        status::publish_check(memory, &self.config, self.writer, number, &report)?;
        self.checking = None;
        self.checked = number;
        Ok(Step::Checked { number, damaged: report.damaged })
    }

    /// What disagrees with the program's own counts: status, tally, ledger, device.
    fn totals<M: Memory>(&self, memory: &mut M, walk: &Walk) -> Result<[Option<Damage>; 4], M::Error> {
        let Self { config, writer, written, sequence, sum, device_seen, .. } = self;
        let damage = |kind, gpa, expected, seen| {
            Some(Damage { kind, gfn: config.gfn_of(gpa), writer: *writer, expected, seen })
        };
        let page = config.status_gpa(*writer);
        let status = status::Status::load(memory, config, *writer)?;
        let told = (status.written, status.sequence, status.sum, status.in_flight);
        let counts = if told == (*written, *sequence, *sum, None) {
            None
        } else if status.written > *written {
            damage(DamageKind::ProgramBehind, page, status.written, *written)
        } else {
            damage(DamageKind::StatusBehind, page, *written, status.written)
        };
        let tally = memory.load(config.tally_gpa(*writer))?;
        let tally_damage = if tally == *written {
            None
        } else if tally < *written {
            damage(DamageKind::TallyBehind, config.tally_gpa(*writer), *written, tally)
        } else {
            damage(DamageKind::ProgramBehind, page, tally, *written)
        };
        let ledger = if walk.sum == *sum {
            None
        } else {
            damage(DamageKind::LedgerTotal, config.ledger_gpa(*writer, 0), *sum, walk.sum)
        };
        let seen = walk.stamp.max(*device_seen);
        let device = judge_device(device::read(memory, config)?, config, *writer, seen);
        Ok([counts, tally_damage, ledger, device])
    }

    /// Notes a new device record, or that an old one has come back.
    #[inline]
    fn see_device<M: Memory>(&mut self, memory: &mut M) -> Result<(), M::Error> {
        let newest = device::newest(memory, &self.config)?;
        if newest == self.device_seen {
            return Ok(());
        }
        memory.store(self.config.status_gpa(self.writer) + status::DEVICE_SEEN, newest)?;
        if newest < self.device_seen {
            self.find(DamageKind::DeviceBehind, self.config.device_gpa(), self.device_seen, newest);
        }
        self.device_seen = newest;
        Ok(())
    }

    /// Publishes `state` and a heartbeat, and does nothing else.
    fn wait<M: Memory>(&mut self, memory: &mut M, state: State, step: Step) -> Result<Step, M::Error> {
        self.show(memory, state)?;
        let heartbeat = self.heartbeat.wrapping_add(1);
        memory.store(self.config.status_gpa(self.writer) + status::HEARTBEAT, heartbeat)?;
        self.heartbeat = heartbeat;
        Ok(step)
    }

    #[inline]
    fn show<M: Memory>(&mut self, memory: &mut M, state: State) -> Result<(), M::Error> {
        if self.shown != Some(state) {
            memory.store(self.config.status_gpa(self.writer) + status::STATE, state.to_word())?;
            self.shown = Some(state);
        }
        Ok(())
    }

    fn find(&mut self, kind: DamageKind, gpa: u64, expected: u64, seen: u64) {
        let gfn = self.config.gfn_of(gpa);
        self.found.add(Damage { kind, gfn, writer: self.writer, expected, seen });
    }
}
