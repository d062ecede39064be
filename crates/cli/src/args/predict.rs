//! Asking what sending a machine away would come to.

use std::time::Duration;

use clap::Args;

use super::Prefer;
use crate::size::Bytes;

/// Arguments of `predict`.
#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// The machine's name.
    pub(crate) vm: String,

    /// Bytes a second of the link, or that the migration is to take at most, as in 100M. Without it a link of 1 GB/s between
    /// hosts side by side is assumed, give or take half of that.
    #[arg(long, value_name = "SIZE")]
    pub(crate) bandwidth: Option<Bytes>,

    /// How long something takes to the other host and back, as in 20ms, beyond what hosts side by side need.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) round_trip: Option<Duration>,

    /// The downtime to aim at, as in 2ms; by default 10ms.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) max_downtime: Option<Duration>,

    /// The time over all to aim at, as in 60s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) max_total: Option<Duration>,

    /// What would matter more where the goal cannot be met: with `downtime` the guest is slowed down as far as that helps.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) prefer: Prefer,

    /// For how long the guest's writes are watched, as in 5s: what it does seldom is seen by a long look only.
    #[arg(long = "time", value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) watch: Duration,
}
