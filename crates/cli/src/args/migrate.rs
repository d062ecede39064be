//! Sending a machine away.

use std::time::Duration;

use clap::{Args, ValueEnum};
use ringmark_migrate::Address;
use ringmark_track::AuditRate;

use super::LinkArgs;
use crate::size::Bytes;

/// What gives way if the downtime aimed at cannot be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Prefer {
    /// The migration: it is given up, and the guest runs on here undisturbed.
    Guest,
    /// The downtime: it is completed with the shortest that is possible.
    #[default]
    Downtime,
}

impl From<Prefer> for ringmark_control::Prefer {
    fn from(prefer: Prefer) -> Self {
        match prefer {
            Prefer::Guest => Self::Guest,
            Prefer::Downtime => Self::Downtime,
        }
    }
}

/// How memory gets to the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum MemoryWish {
    /// By descriptor where that is possible, else as a copy.
    #[default]
    Auto,
    /// Page by page.
    Copy,
    /// As it is: the process on the other side of a Unix socket, of the same user, maps the same memory. No page is copied;
    /// it is an error if that is not possible (an interrupt translation service, a clone, the engine).
    Descriptor,
}

/// What is compared before the guest runs on the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verify {
    /// A digest over every page that was sent, kept as pages pass.
    #[default]
    Sent,
    /// The whole of memory on both sides, too, while the guest stands still (about 0.2 s a GiB).
    Full,
}

/// What a person says who has looked at the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Decision {
    /// The guest does not run there, and never will: let it run here.
    Run,
    /// The guest runs there: give it up here.
    Discard,
}

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The machine's name.
    pub(crate) vm: String,

    /// Where `ringmark receive` waits: unix:PATH, tcp:HOST:PORT or tls:HOST:PORT.
    #[arg(required_unless_present = "decide")]
    pub(crate) address: Option<Address>,

    /// How memory gets to the other side.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) memory: MemoryWish,

    /// The downtime to aim at, as in 2ms; by default 10ms.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) max_downtime: Option<Duration>,

    /// After this long, as in 60s, no further round is begun: the guest is stopped for the last pages, or the migration
    /// given up, as --prefer has it.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) max_total: Option<Duration>,

    /// What matters more where the downtime aimed at cannot be had.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) prefer: Prefer,

    /// Send so many bytes a second at most, as in 100M.
    #[arg(long, value_name = "SIZE")]
    pub(crate) bandwidth: Option<Bytes>,

    /// Go on with the migration whose link was cut last, from what its destination still holds: pages that it has confirmed and
    /// that the guest has not written since are not sent again. The address may be another one, of the same destination.
    #[arg(long)]
    pub(crate) resume: bool,

    /// Connections for pages.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) streams: u16,

    /// What is compared before the guest runs on the other side.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) verify: Verify,

    /// Hash memory while the guest stands still, and give the migration up if a page was written that no source reported.
    /// With a RATE such as 1%, a random share of memory is looked at. Where memory is handed over by descriptor no page can be
    /// missed, and nothing is hashed.
    #[arg(long, value_name = "RATE", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    pub(crate) audit: Option<AuditRate>,

    /// Decide an undecided migration, on either side.
    ///
    /// If the link dies at the one instant at which neither side can know what the other did, the guest stands still on
    /// both. They ask one another; where nobody answers, look whether the guest runs on the other side. If it does, discard
    /// it here. If it does not, make sure that it never will (end the process there, or discard it there), and run it here.
    #[arg(long, value_enum, conflicts_with_all = ["address", "max_downtime", "max_total", "bandwidth", "audit", "resume"])]
    pub(crate) decide: Option<Decision>,

    /// How the other side is reached.
    #[command(flatten)]
    pub(crate) link: LinkArgs,
}
