//! What a check found wrong.

use core::fmt;

/// The ways in which memory disagrees with itself after a page was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// A hot page is older than its writer's ledger says (sequence numbers); 0 was seen where the certificate is
    /// absent.
    PageBehind,
    /// A certificate whose words do not fit together (checksums).
    PageCorrupt,
    /// A certificate of another page (gfn).
    PageMisplaced,
    /// A certificate of another machine (seeds) or writer.
    PageForeign,
    /// A page of the ledger is older than a hot page (sequence numbers).
    LedgerBehind,
    /// The sum over a writer's ledger is not what the writer counted: both a hot page and its ledger entry are lost.
    LedgerTotal,
    /// A writer's status page is older than its ledger or its program (page writes or sequence numbers).
    StatusBehind,
    /// A writer's tally page is older than its status page (page writes).
    TallyBehind,
    /// A program's own state is older than what it had published (page writes).
    ProgramBehind,
    /// The device page is older than what a program had read from it (device sequence numbers).
    DeviceBehind,
    /// The device page's words do not fit together (checksums).
    DeviceCorrupt,
    /// An interrupt that was raised did not come (how often it was raised, and taken); its frame is that of the event's
    /// translation table entry, and its writer the vCPU that it was for.
    InterruptLost,
    /// An interrupt came that was not raised, or to a vCPU that it was not for, or again (how often it was raised, and
    /// taken); frame and writer are as above.
    InterruptRepeated,
}

impl DamageKind {
    const ALL: [Self; 13] = [
        Self::PageBehind,
        Self::PageCorrupt,
        Self::PageMisplaced,
        Self::PageForeign,
        Self::LedgerBehind,
        Self::LedgerTotal,
        Self::StatusBehind,
        Self::TallyBehind,
        Self::ProgramBehind,
        Self::DeviceBehind,
        Self::DeviceCorrupt,
        Self::InterruptLost,
        Self::InterruptRepeated,
    ];

    /// The code in a status page; zero is the code of none.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::PageBehind => 1,
            Self::PageCorrupt => 2,
            Self::PageMisplaced => 3,
            Self::PageForeign => 4,
            Self::LedgerBehind => 5,
            Self::LedgerTotal => 6,
            Self::StatusBehind => 7,
            Self::TallyBehind => 8,
            Self::ProgramBehind => 9,
            Self::DeviceBehind => 10,
            Self::DeviceCorrupt => 11,
            Self::InterruptLost => 12,
            Self::InterruptRepeated => 13,
        }
    }

    /// The kind of a code.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_word() == word)
    }

    /// What is wrong, as a clause.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::PageBehind => "hot page is older than its ledger",
            Self::PageCorrupt => "hot page's certificate is torn",
            Self::PageMisplaced => "hot page holds another page's certificate",
            Self::PageForeign => "hot page holds another machine's or writer's certificate",
            Self::LedgerBehind => "ledger page is older than a hot page",
            Self::LedgerTotal => "ledger does not add up",
            Self::StatusBehind => "status page is older than the pages it counts",
            Self::TallyBehind => "tally page is older than the status page",
            Self::ProgramBehind => "program state is older than its status page",
            Self::DeviceBehind => "device page is older than what was read from it",
            Self::DeviceCorrupt => "device page is torn",
            Self::InterruptLost => "an interrupt mapped by this page never came",
            Self::InterruptRepeated => "an interrupt mapped by this page came unasked",
        }
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// One disagreement: the page that must have been lost, and by which evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What is wrong.
    pub kind: DamageKind,
    /// Frame of the page that is wrong.
    pub gfn: u64,
    /// Whose lane, ledger or status it is.
    pub writer: u64,
    /// What should be there; the unit is the [`kind`](Self::kind)'s.
    pub expected: u64,
    /// What is there.
    pub seen: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, gfn, writer, expected, seen } = self;
        write!(f, "gfn {gfn:#x}, writer {writer}: {kind} (expected {expected:#x}, found {seen:#x})")
    }
}

/// How many disagreements a [`Report`] names; the others are counted.
pub const NAMED: usize = 16;

/// The result of a check, from inside or outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hot pages looked at, counted once for each writer.
    pub pages: u64,
    /// Certificates found, one for each writer and each page it has written.
    pub lanes: u64,
    /// Disagreements found.
    pub damaged: u64,
    named: [Option<Damage>; NAMED],
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.damaged == 0
    }

    /// The first disagreements, at most [`NAMED`].
    pub fn damages(&self) -> impl Iterator<Item = &Damage> {
        self.named.iter().flatten()
    }

    /// Adds what another check found.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.pages = self.pages.saturating_add(other.pages);
        self.lanes = self.lanes.saturating_add(other.lanes);
        let damaged = self.damaged.saturating_add(other.damaged);
        for damage in other.damages() {
            self.add(*damage);
        }
        self.damaged = damaged;
    }

    /// Counts one disagreement, and names it while there is room.
    pub(crate) fn add(&mut self, damage: Damage) {
        self.damaged = self.damaged.saturating_add(1);
        if let Some(free) = self.named.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(damage);
        }
    }
}

impl fmt::Display for Report {
    /// `ok, N lanes`, or `LOST`, how many and the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.damages().next() {
            _ if self.is_ok() => write!(f, "ok, {} lanes", self.lanes),
            Some(first) => write!(f, "LOST {}, first: {first}", self.damaged),
            None => write!(f, "LOST {}", self.damaged),
        }
    }
}
