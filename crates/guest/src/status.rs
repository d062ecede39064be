//! A writer's status page: what the monitor may know of a program.
//!
//! | offset | word |
//! |---|---|
//! | 0x00 | state ([`State`]) |
//! | 0x08 | heartbeat: steps without a page write |
//! | 0x10 | newest device record seen |
//! | 0x40 | page writes done |
//! | 0x48 | last sequence number given |
//! | 0x50 | sum over the writer's ledger, wrapping |
//! | 0x58 | page in flight, plus one; zero for none |
//! | 0x60, 0x68 | its new and its previous sequence number |
//! | 0x80 | number of the last check done, stored last |
//! | 0x88, 0x90 | its pages and lanes |
//! | 0x98 | its disagreements |
//! | 0xa0 … 0xb8 | the first one: kind, gfn, expected, seen |
//!
//! A page write stores, in this order: the page in flight; the certificate; the ledger entry; the tally; sum,
//! sequence number and count here; no page in flight. Wherever a writer is stopped, one page at most is half written,
//! and this page says which.

use crate::config::Config;
use crate::control::Control;
use crate::damage::{Damage, DamageKind, Report};
use crate::memory::{Load, Memory};

pub(crate) const STATE: u64 = 0x00;
pub(crate) const HEARTBEAT: u64 = 0x08;
pub(crate) const DEVICE_SEEN: u64 = 0x10;
pub(crate) const WRITTEN: u64 = 0x40;
pub(crate) const SEQUENCE: u64 = 0x48;
pub(crate) const SUM: u64 = 0x50;
pub(crate) const IN_FLIGHT_PAGE: u64 = 0x58;
pub(crate) const IN_FLIGHT_SEQUENCE: u64 = 0x60;
pub(crate) const IN_FLIGHT_PREVIOUS: u64 = 0x68;
const CHECKED: u64 = 0x80;
const CHECK_PAGES: u64 = 0x88;
const CHECK_LANES: u64 = 0x90;
const CHECK_DAMAGED: u64 = 0x98;
const DAMAGE: u64 = 0xa0;

/// What a program is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It has not started.
    #[default]
    Absent,
    /// It writes pages, or idles between two.
    Running,
    /// It checks its pages.
    Checking,
    /// It waits for another command.
    Holding,
    /// It has stopped for good.
    Stopped,
}

impl State {
    const ALL: [Self; 5] = [Self::Absent, Self::Running, Self::Checking, Self::Holding, Self::Stopped];

    pub(crate) const fn to_word(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Running => 1,
            Self::Checking => 2,
            Self::Holding => 3,
            Self::Stopped => 4,
        }
    }

    pub(crate) fn from_word(word: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.to_word() == word)
    }
}

/// A page write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Index of the hot page.
    pub page: u64,
    /// The sequence number it is to have.
    pub sequence: u64,
    /// The sequence number it had, zero for none.
    pub previous: u64,
}

/// A status page as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the program is doing; `None` for a word that means nothing.
    pub state: Option<State>,
    /// Steps without a page write: it rises while the program idles, checks or holds.
    pub heartbeat: u64,
    /// Newest device record that the program has seen.
    pub device_seen: u64,
    /// Page writes done.
    pub written: u64,
    /// Last sequence number given.
    pub sequence: u64,
    /// Sum over the writer's ledger, wrapping.
    pub sum: u64,
    /// The page that is being written.
    pub in_flight: Option<InFlight>,
    /// Number of the last check done, zero for none.
    pub checked: u64,
}

impl Status {
    /// Reads the status page of `writer`. While the writer runs, the words are not of one instant.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn load<L: Load>(memory: &mut L, config: &Config, writer: u64) -> Result<Self, L::Error> {
        let page = config.status_gpa(writer);
        let in_flight = match memory.load(page + IN_FLIGHT_PAGE)? {
            0 => None,
            page_plus_one => Some(InFlight {
                page: page_plus_one - 1,
                sequence: memory.load(page + IN_FLIGHT_SEQUENCE)?,
                previous: memory.load(page + IN_FLIGHT_PREVIOUS)?,
            }),
        };
        Ok(Self {
            state: State::from_word(memory.load(page + STATE)?),
            heartbeat: memory.load(page + HEARTBEAT)?,
            device_seen: memory.load(page + DEVICE_SEEN)?,
            written: memory.load(page + WRITTEN)?,
            sequence: memory.load(page + SEQUENCE)?,
            sum: memory.load(page + SUM)?,
            in_flight,
            checked: memory.load(page + CHECKED)?,
        })
    }
}

/// Publishes the result of check `number`; the number goes last, so who sees it sees the result.
pub(crate) fn publish_check<M: Memory>(
    memory: &mut M,
    config: &Config,
    writer: u64,
    number: u64,
    report: &Report,
) -> Result<(), M::Error> {
    let page = config.status_gpa(writer);
    memory.store(page + CHECK_PAGES, report.pages)?;
    memory.store(page + CHECK_LANES, report.lanes)?;
    memory.store(page + CHECK_DAMAGED, report.damaged)?;
    let first = report.damages().next();
    let words =
        first.map_or([0; 4], |damage| [damage.kind.to_word(), damage.gfn, damage.expected, damage.seen]);
    for (gpa, word) in (page + DAMAGE..).step_by(8).zip(words) {
        memory.store(gpa, word)?;
    }
    memory.store(page + CHECKED, number)
}

/// Asks every program for a check, with a number that none has used, and returns the number.
///
/// Programs remember the last check they did, also in an image that is restored later: a number used before would get
/// the old answer.
///
/// # Errors
///
/// The memory's; no check was asked for.
pub fn request_check<M: Memory>(memory: &mut M, config: &Config) -> Result<u64, M::Error> {
    let mut last = config.control(memory)?.map_or(0, |control| control.number);
    for writer in 0..config.writers {
        last = last.max(memory.load(config.status_gpa(writer) + CHECKED)?);
    }
    // Of a number, 56 bits are kept.
    let number = last.wrapping_add(1) & (u64::MAX >> 8);
    config.set_control(memory, Control::check(number))?;
    Ok(number)
}

/// What all programs of a machine found in check `number`, or `None` while one of them is not done.
///
/// Each program names its first disagreement; the others are counted.
///
/// # Errors
///
/// The memory's.
pub fn check_result<L: Load>(
    memory: &mut L,
    config: &Config,
    number: u64,
) -> Result<Option<Report>, L::Error> {
    let mut all = Report::default();
    for writer in 0..config.writers {
        let page = config.status_gpa(writer);
        if memory.load(page + CHECKED)? != number {
            return Ok(None);
        }
        all.pages = all.pages.saturating_add(memory.load(page + CHECK_PAGES)?);
        all.lanes = all.lanes.saturating_add(memory.load(page + CHECK_LANES)?);
        let damaged = memory.load(page + CHECK_DAMAGED)?;
        if damaged == 0 {
            continue;
        }
        let mut words = [0; 4];
        for (gpa, word) in (page + DAMAGE..).step_by(8).zip(&mut words) {
            *word = memory.load(gpa)?;
        }
        let [kind, gfn, expected, seen] = words;
        all.damaged = all.damaged.saturating_add(damaged - 1);
        // A status page may hold anything: what it cannot name is damage to itself.
        all.add(match DamageKind::from_word(kind) {
            Some(kind) => Damage { kind, gfn, writer, expected, seen },
            None => Damage {
                kind: DamageKind::StatusBehind,
                gfn: config.gfn_of(page),
                writer,
                expected: 0,
                seen: kind,
            },
        });
    }
    Ok(Some(all))
}
