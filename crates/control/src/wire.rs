//! What travels. Names are snake_case, sizes are in bytes, times in milliseconds with a fraction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Failure;

mod migration;
mod prediction;

pub use migration::{
    Decide, Decision, MemoryWish, MigrateProgress, MigrateRequest, Migration, Prefer, TlsFiles,
};
pub use prediction::{PredictRequest, Predicted};

/// The version of everything in this module. Fields may be added within a version; none changes its meaning.
pub const SCHEMA: u32 = 1;

/// What the guest is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GuestState {
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are stopped and can be resumed.
    Paused,
    /// It has shut down, crashed, or was stopped.
    Stopped,
    /// Nothing runs yet: its memory arrives from another host.
    Arriving,
    /// It was being handed over and may run on the other side, which cannot be asked: it stands still until somebody
    /// decides.
    Undecided,
    /// It runs on another host.
    Left,
    /// The program that answers does not know, or a later version said something else.
    #[default]
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for GuestState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Arriving => "arriving",
            Self::Undecided => "undecided",
            Self::Left => "left",
            Self::Unknown => "unknown",
        })
    }
}

/// A machine as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name of the machine.
    pub name: String,
    /// The process that runs it.
    pub pid: u32,
    /// What the guest is doing.
    pub guest: GuestState,
    /// `kvm` or `engine`.
    pub hypervisor: String,
    /// How dirty pages are tracked, for example `ring`, `ring+bitmap` or `bitmap`.
    pub tracking: String,
    /// Why that method was chosen.
    pub tracking_why: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Bytes of guest memory.
    pub memory: u64,
    /// Bytes of a page of dirty tracking.
    pub page_size: u64,
    /// Milliseconds since the machine started.
    pub uptime_ms: f64,
    /// The directory of its image store.
    pub store: String,
    /// The identity of the image that the machine was restored from.
    pub restored_from: Option<String>,
    /// Pages that the guest says it has written; `None` for a guest that does not count them.
    pub guest_pages_written: Option<u64>,
    /// Whether a checkpoint is being taken.
    pub checkpoint_running: bool,
    /// Whether it is on its way to another host.
    pub migration_running: bool,
    /// Whether the guest's writes are being watched for a prediction.
    pub prediction_running: bool,
    /// The share of memory by which every checkpoint is audited, in percent; `None` where none is.
    pub audit_percent: Option<f64>,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// The newest of them.
    pub last_checkpoint: Option<Checkpoint>,
    /// The schedule by which checkpoints are taken by themselves.
    pub schedule: Option<Schedule>,
}

/// Checkpoints by the clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// Milliseconds from one to the next, as asked for.
    pub every_ms: f64,
    /// Which images stay; `None` for all.
    pub keep: Option<String>,
    /// Checkpoints taken by the schedule.
    pub taken: u64,
    /// Instants at which one was due and the one before was not done.
    pub missed: u64,
    /// Checkpoints that failed; the next one contained their pages.
    pub failed: u64,
    /// Images removed.
    pub pruned: u64,
    /// Whether checkpoints take longer than the interval.
    pub behind: bool,
    /// Milliseconds of the shortest interval that this guest and host sustain: the longest that one of the recent
    /// checkpoints took.
    pub shortest_interval_ms: Option<f64>,
    /// What went wrong last.
    pub last_failure: Option<String>,
}

/// What to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRequest {
    /// [`SCHEMA`]; a request without one is of version 1.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// Take a base with every page instead of an increment.
    #[serde(default)]
    pub full: bool,
    /// Audit this checkpoint's cut, and the share of memory to watch from then on: `100%`, `1%`. The machine's own share
    /// counts where it is larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
}

pub(crate) const fn first_schema() -> u32 {
    1
}

impl Default for CheckpointRequest {
    fn default() -> Self {
        Self { schema: SCHEMA, full: false, audit: None }
    }
}

/// Where a checkpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Pages are copied while the guest runs.
    Copying,
    /// The guest stands still for the cut.
    Paused,
    /// The guest runs again, pages are compressed and written.
    Writing,
    /// Everything is written and being made durable.
    Syncing,
    /// A phase of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Copying => "copying",
            Self::Paused => "paused",
            Self::Writing => "writing",
            Self::Syncing => "syncing",
            Self::Unknown => "unknown",
        })
    }
}

/// A checkpoint on its way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Pages that are done with this phase.
    pub pages: u64,
    /// Pages that the phase is expected to have.
    pub pages_total: u64,
    /// Bytes written to the store so far.
    pub bytes: u64,
    /// Milliseconds since the checkpoint began.
    pub elapsed_ms: f64,
}

/// A completed checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkpoint {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The image's identity, in full.
    pub image: String,
    /// The identity of the image that it is an increment to; `None` for a base.
    pub parent: Option<String>,
    /// Pages in the image.
    pub pages: u64,
    /// Pages reported by each source: `ring`, `bitmap`, `monitor`. A page that two of them reported counts in both.
    pub by_source: BTreeMap<String, u64>,
    /// Pages of zeros, which cost nothing.
    pub zero_pages: u64,
    /// Bytes that the image takes in the store.
    pub bytes: u64,
    /// Rounds in which pages were copied while the guest ran.
    pub rounds: u32,
    /// Pages copied while the guest stood still.
    pub last_round_pages: u64,
    /// Pages that were written again after they had been copied; the image has the later contents.
    pub superseded_pages: u64,
    /// Pages of the parent that were stored again beside those in the image, so that a restore finds them together.
    pub gathered_pages: u64,
    /// Bytes of pages a second that were hashed, compared and compressed, from the first until the image was durable.
    pub taken_bytes_per_s: f64,
    /// Bytes a second that went to the store in that time.
    pub stored_bytes_per_s: f64,
    /// Milliseconds from the order to stop the vCPUs to their resumption, without the audit.
    pub pause_ms: f64,
    /// Milliseconds for which the guest stood still in all, the audit included.
    pub stopped_ms: f64,
    /// Milliseconds of that which the audit took; `None` where none ran.
    pub audit_ms: Option<f64>,
    /// Milliseconds from request to durable image.
    pub total_ms: f64,
    /// Pages that changed without being reported, found by the audit or the check; `None` where neither ran.
    pub escapes: Option<u64>,
    /// Unreported pages that the audit compared; 0 if it was the first, which has nothing to compare with.
    pub audit_pages: Option<u64>,
    /// Bytes that the audit hashed.
    pub audit_bytes: Option<u64>,
    /// The share of memory that the audit watches until the next one, in percent.
    pub audit_percent: Option<f64>,
    /// Whether this audit was the first, and only took the hashes that the next one compares with.
    pub audit_baseline: Option<bool>,
    /// What the reported pages were checked with beside the audit: `uffd` or `hash`; `None` where with nothing.
    pub check_with: Option<String>,
    /// Pages that this check saw written; every one was reported, or there is no checkpoint.
    pub check_pages: Option<u64>,
    /// Milliseconds that the check took, the guest standing still.
    pub check_ms: Option<f64>,
    /// What would cost the guest less than the way of tracking in force.
    pub advice: Vec<Advice>,
}

/// What would cost the guest less, with the two times by which that is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Advice {
    /// `standalone_bitmaps` or `stop_and_copy`.
    pub kind: String,
    /// One sentence for people.
    pub text: String,
    /// The share that led to it, in percent: of the written pages those in the backup bitmap, or of memory the written
    /// pages.
    pub share_percent: f64,
    /// Milliseconds that a checkpoint costs the guest now.
    pub now_ms: f64,
    /// Milliseconds that it would cost instead.
    pub instead_ms: f64,
}

/// A page that changed without being reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Escape {
    /// The memslot.
    pub slot: u32,
    /// The page, counted from the slot's start.
    pub page: u64,
    /// The guest frame.
    pub gfn: u64,
    /// The guest-physical address of the page.
    pub address: Option<u64>,
    /// The source that reported the page last: `ring`, `bitmap`, `other` or `monitor`.
    pub last_source: Option<String>,
    /// How many checkpoints ago that was, at least.
    pub last_epochs_ago: Option<u64>,
    /// The sources of which one ought to have reported it.
    pub ought: Vec<String>,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckOutcome {
    /// Every page is as its writer left it.
    Ok,
    /// At least one page is not.
    Failed,
    /// The guest does not certify its pages, so that there is nothing to check; or a later version said something
    /// else.
    #[default]
    #[serde(other)]
    Absent,
}

/// Whether the guest's memory is what the guest wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the guest found from the inside.
    pub guest_check: CheckOutcome,
    /// What the monitor found from the outside.
    pub memory_check: CheckOutcome,
    /// What the guest says of it.
    pub guest_detail: String,
    /// What the monitor says of it.
    pub memory_detail: String,
    /// Pages that were checked.
    pub pages: u64,
}

/// A line of a checkpoint's answer, or of another that takes its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event<P = Progress, R = Checkpoint> {
    /// On its way.
    Progress(P),
    /// Done: the last line.
    Result(Box<R>),
    /// Failed: the last line.
    Error(Failure),
}

/// A line of a migration's answer.
pub type MigrateEvent = Event<MigrateProgress, Migration>;

/// The body of an answer that is a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) schema: u32,
    pub(crate) error: Failure,
}
