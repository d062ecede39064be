//! Who may run the guest: the rule of the switchover, for each side, without any I/O.
//!
//! ```text
//!  source        Running ── stop ──▶ Stopped ── commit ──▶ Committing ── hears Running ──▶ Gone
//!                   ▲                   │ fails                 │ hears Discarded
//!                   └───────────────────┴───────────────────────┘
//!
//!  destination   Receiving ── prepare ──▶ Prepared ── hears commit ──▶ Running
//!                    │ fails, abort          │ hears abort
//!                    └──────────▶ Discarded ◀┘
//! ```
//!
//! The guest runs at the source in `Running` alone, and at the destination in `Running` alone.
//!
//! * The source enters `Committing` *before* the first byte of the commit leaves, and from then on never runs the guest
//!   unless the destination says that it has given it up for good.
//! * The destination leaves `Prepared` for `Running` only by the source's commit, and for `Discarded` only by the source's
//!   abort or by its operator. What it has discarded it never runs.
//!
//! So at most one side runs, whatever is lost, cut or killed. If the link dies, each side but one knows by itself what
//! to do: a source that has not committed runs on, a destination that is not prepared discards. What remains is a
//! source in `Committing` that has heard nothing, and a destination in `Prepared`: neither can know what the other did,
//! and both stand still. The source asks; the answer decides. If there is nobody to ask, a person has to look at the
//! other side and say.

use crate::wire::Standing;

/// The source's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The guest runs here.
    Running,
    /// It is stopped, and may still go on here.
    Stopped,
    /// The destination was told, or is being told, to run it. It goes on here only by the destination's word.
    Committing,
    /// It runs at the destination, and never here again.
    Gone,
}

/// What the source has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceDuty {
    /// Let the guest run on here; all its pages are the tracker's again.
    RunOn,
    /// End: the guest runs at the destination.
    End,
    /// Tell the destination, which is prepared and waits, to run the guest.
    CommitAgain,
    /// Stand still, and ask the destination, or a person.
    Ask,
}

impl Source {
    /// The guest has been stopped for the switchover. Only a guest that runs here can be.
    #[must_use]
    pub const fn stop(self) -> Self {
        match self {
            Self::Running => Self::Stopped,
            other => other,
        }
    }

    /// The destination is prepared and is about to be told to run the guest. To be called before anything is sent.
    #[must_use]
    pub const fn commit(self) -> Self {
        match self {
            Self::Stopped => Self::Committing,
            other => other,
        }
    }

    /// The link is gone, the destination failed, the operator cancelled, or a step failed here.
    #[must_use]
    pub const fn fail(self) -> (Self, SourceDuty) {
        match self {
            Self::Running | Self::Stopped => (Self::Running, SourceDuty::RunOn),
            Self::Committing => (Self::Committing, SourceDuty::Ask),
            Self::Gone => (Self::Gone, SourceDuty::End),
        }
    }

    /// The destination says where it stands; [`Standing::Running`] is also what it says by itself when it runs.
    ///
    /// That it does not know the session decides nothing: another process may have been the destination, and may run the
    /// guest.
    #[must_use]
    pub const fn hear(self, standing: Standing) -> (Self, SourceDuty) {
        match (self, standing) {
            (Self::Committing, Standing::Running) => (Self::Gone, SourceDuty::End),
            (Self::Committing, Standing::Discarded) => (Self::Running, SourceDuty::RunOn),
            (Self::Committing, Standing::Prepared) => (Self::Committing, SourceDuty::CommitAgain),
            (other, _) => other.fail(),
        }
    }

    /// Whether the guest may run here.
    #[must_use]
    pub const fn may_run(self) -> bool {
        matches!(self, Self::Running)
    }
}

/// The destination's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Pages arrive.
    Receiving,
    /// All is in place. It runs by the source's word only.
    Prepared,
    /// The guest runs here.
    Running,
    /// It never runs here.
    Discarded,
}

/// What the destination has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationDuty {
    /// Let the guest run.
    Run,
    /// Throw away what has arrived.
    Discard,
    /// Stand still and keep everything; answer whoever asks.
    Hold,
    /// Go on as before.
    Continue,
}

impl Destination {
    /// Everything has arrived, agrees, and is loaded.
    #[must_use]
    pub const fn prepare(self) -> Self {
        match self {
            Self::Receiving => Self::Prepared,
            other => other,
        }
    }

    /// The source tells it to run the guest. Told twice, it runs once.
    #[must_use]
    pub const fn commit(self) -> (Self, DestinationDuty) {
        match self {
            Self::Prepared => (Self::Running, DestinationDuty::Run),
            Self::Running => (Self::Running, DestinationDuty::Continue),
            Self::Receiving | Self::Discarded => (Self::Discarded, DestinationDuty::Discard),
        }
    }

    /// The source keeps the guest, or the operator gives up what has arrived.
    #[must_use]
    pub const fn abort(self) -> (Self, DestinationDuty) {
        match self {
            Self::Running => (Self::Running, DestinationDuty::Continue),
            _ => (Self::Discarded, DestinationDuty::Discard),
        }
    }

    /// The link is gone, or a step failed here.
    #[must_use]
    pub const fn fail(self) -> (Self, DestinationDuty) {
        match self {
            Self::Receiving | Self::Discarded => (Self::Discarded, DestinationDuty::Discard),
            Self::Prepared => (Self::Prepared, DestinationDuty::Hold),
            Self::Running => (Self::Running, DestinationDuty::Continue),
        }
    }

    /// The answer to whoever asks.
    #[must_use]
    pub const fn standing(self) -> Standing {
        match self {
            Self::Receiving => Standing::Receiving,
            Self::Prepared => Standing::Prepared,
            Self::Running => Standing::Running,
            Self::Discarded => Standing::Discarded,
        }
    }

    /// Whether the guest may run here.
    #[must_use]
    pub const fn may_run(self) -> bool {
        matches!(self, Self::Running)
    }
}
