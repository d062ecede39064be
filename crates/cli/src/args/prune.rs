//! Arguments of `prune`.

use clap::Args;
use ringmark_care::keep::KeepPolicy;

use super::StoreArgs;

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only images of this machine; without it, those of every machine, each machine by itself.
    pub(crate) vm: Option<String>,

    /// What to keep, as in `last=10,hourly=24,daily=7,within=2d`. Rules: last, minutely, hourly, daily, weekly, monthly,
    /// yearly with a number or `all`, and within with a span (`90m`, `2d12h`, `1mo`). An image stays if any rule keeps
    /// it; the newest always does.
    #[arg(long, value_name = "POLICY")]
    pub(crate) keep: KeepPolicy,

    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
