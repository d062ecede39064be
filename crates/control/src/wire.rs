//! What travels. Names are snake_case, sizes are in bytes, times in milliseconds with a fraction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Failure;

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
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// The newest of them.
    pub last_checkpoint: Option<Checkpoint>,
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
}

const fn first_schema() -> u32 {
    1
}

impl Default for CheckpointRequest {
    fn default() -> Self {
        Self { schema: SCHEMA, full: false }
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
    /// Milliseconds from the order to stop the vCPUs to their resumption, without the audit.
    pub pause_ms: f64,
    /// Milliseconds for which the guest stood still in all, the audit included.
    pub stopped_ms: f64,
    /// Milliseconds of that which the audit took; `None` where none ran.
    pub audit_ms: Option<f64>,
    /// Milliseconds from request to durable image.
    pub total_ms: f64,
    /// Pages that changed without being reported, found by the audit; `None` where no audit ran.
    pub escapes: Option<u64>,
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

/// A line of a checkpoint's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// On its way.
    Progress(Progress),
    /// Done: the last line.
    Result(Checkpoint),
    /// Failed: the last line.
    Error(Failure),
}

/// The body of an answer that is a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) schema: u32,
    pub(crate) error: Failure,
}
