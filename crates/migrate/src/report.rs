//! What a migration came to, in the words of QMP's `query-migrate` where it has them.

use std::time::Duration;

use ringmark_track::{Slowed, Throttle};
use serde::{Deserialize, Serialize};

use crate::predict::Prediction;

/// Milliseconds with a fraction.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Pages are on their way.
    #[default]
    Active,
    /// The guest runs at the destination.
    Completed,
    /// The guest runs on at the source.
    Failed,
    /// It was called off; the guest runs on at the source.
    Cancelled,
    /// Neither side may run the guest until it is known what the other one did.
    Undecided,
}

/// How memory got to the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryBy {
    /// Page by page.
    #[default]
    Copy,
    /// As [the file that it is](crate::memory_file): no page was sent.
    Descriptor,
}

/// A migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Report {
    /// How it ended.
    pub status: Status,
    /// From the request to the word that the guest runs at the destination, in milliseconds.
    pub total_time: f64,
    /// From the request to the first page, in milliseconds.
    pub setup_time: f64,
    /// In which no guest ran, in milliseconds.
    pub downtime: f64,
    /// The downtime by what it was spent on.
    pub downtime_breakdown: Downtime,
    /// How memory got there: `copy` or `descriptor`.
    pub memory: MemoryBy,
    /// Why it was copied though both sides are of one host; none where it was to be.
    pub copied_because: Option<String>,
    /// Guest memory.
    pub ram: Ram,
    /// What was expected of it after the first round; none if it ended before.
    pub prediction: Option<Prediction>,
    /// The rounds, in order.
    pub rounds: Vec<Round>,
    /// When the guest was stopped and let run on, for more was left than the downtime asked for allows.
    pub called_off: Vec<CalledOff>,
    /// What it cost the guest that it was slowed down; nothing if it was not.
    pub throttle: Throttled,
    /// Whether it went on with what the destination held of one whose link was cut.
    pub resumed: bool,
    /// What was compared before the guest was let run: `sent-pages` or `full`; `same-memory` where nothing was to be, for both
    /// sides have the same pages.
    pub verified: String,
    /// Tells this migration from others.
    pub session: String,
}

/// The downtime, in milliseconds of the source's clock where nothing else is said; the parts add up to the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Downtime {
    /// Until every vCPU had left the guest.
    pub kick: f64,
    /// Saving the state of vCPUs and devices.
    pub save: f64,
    /// The last harvest.
    pub harvest: f64,
    /// Sending the last pages, until they were in the destination's memory.
    pub pages: f64,
    /// Hashing memory at the source in search of pages that were written and not reported, where that was asked for.
    pub audit: f64,
    /// Hashing the whole of memory at the source, where that was asked for.
    pub source_digest: f64,
    /// On the wire: what the destination's own times do not explain.
    pub transfer: f64,
    /// Comparing digests, by the destination's clock.
    pub digest: f64,
    /// Loading the state, by the destination's clock.
    pub load: f64,
    /// From the commit's arrival to the guest's being told to run, by the destination's clock.
    pub resume: f64,
}

/// Guest memory on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Ram {
    /// Bytes of frames that were sent.
    pub transferred: u64,
    /// Bytes of pages that are still to be sent, as far as is known.
    pub remaining: u64,
    /// Bytes of guest memory.
    pub total: u64,
    /// Pages of zeros or of one repeated word.
    pub duplicate: u64,
    /// Pages that were sent with their contents.
    pub normal: u64,
    /// Their bytes before compression.
    pub normal_bytes: u64,
    /// Pages that were sent as a difference.
    pub delta: u64,
    /// Pages that were not sent because the destination had them of an old image.
    pub known: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages that the guest writes in a second, as of the last round.
    pub dirty_pages_rate: u64,
    /// Rounds.
    pub dirty_sync_count: u32,
    /// Megabits a second over all.
    pub mbps: f64,
    /// Pages a second over all.
    pub pages_per_second: u64,
    /// Bytes sent while the guest ran.
    pub precopy_bytes: u64,
    /// Bytes sent while it stood still.
    pub downtime_bytes: u64,
}

/// A round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Round {
    /// Its number, from one.
    pub iteration: u32,
    /// Pages in it.
    pub pages: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Milliseconds until they were in the destination's memory.
    pub elapsed: f64,
    /// Milliseconds of downtime that were to be expected had this been the last round.
    pub expected_downtime: f64,
}

/// A standstill that was called off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CalledOff {
    /// Pages that were left.
    pub pages: u64,
    /// Milliseconds for which no guest ran.
    pub elapsed: f64,
}

/// A guest that was slowed down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Throttled {
    /// Pages a second to which all vCPUs together were held at last; 0 if they were not.
    pub pages_per_second: f64,
    /// Each vCPU.
    pub vcpus: Vec<ThrottledVcpu>,
}

/// A vCPU of a guest that was slowed down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ThrottledVcpu {
    /// Its number.
    pub vcpu: u32,
    /// Milliseconds for which it waited.
    pub rested: f64,
    /// The same as a share of the time since it was slowed down first, from 0 to 1.
    pub share: f64,
    /// Pages a second to which it was held at last; none if it stayed below its share by itself.
    pub quota: Option<f64>,
}

impl Throttled {
    pub(crate) fn of(throttle: &Throttle, pages_per_second: f64) -> Self {
        let vcpu = |slowed: Slowed| ThrottledVcpu {
            vcpu: slowed.vcpu,
            rested: milliseconds(slowed.rested),
            share: slowed.share,
            quota: slowed.quota,
        };
        Self { pages_per_second, vcpus: throttle.cost().into_iter().map(vcpu).collect() }
    }
}
