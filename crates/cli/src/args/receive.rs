//! Taking a machine that another process sends.

use std::time::Duration;

use clap::Args;
use ringmark_migrate::Address;

use super::{LinkArgs, MachineArgs, ScheduleArgs, StoreArgs};
use crate::size::Bytes;

/// Arguments of `receive`.
#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// Where to wait for it: unix:PATH, tcp:HOST:PORT or tls:HOST:PORT; port 0 lets the system choose.
    pub(crate) address: Address,

    /// The machine's name here; by default the one that it had.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Take machines with so much memory at most; by default with what this host has to spare.
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_memory: Option<Bytes>,

    /// For how long what has arrived of a machine is kept when its link is cut, as in 10m, for `ringmark migrate --resume` to go on
    /// from; 0s keeps nothing. A machine that is sent from the start is taken meanwhile, and has it thrown away.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) keep_arrived: Duration,

    /// An old image of the machine in this side's store, by the machine's name for its newest, or by the image's identity or the
    /// beginning of one: pages that are still as the image has them are not sent. What it is worth is found out page by page, so
    /// that a wrong or damaged one costs time and nothing else. It is read when the machine is offered, for 15 s at most; not where
    /// memory is handed over by descriptor.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) seed: Option<String>,

    /// How the other side is reached.
    #[command(flatten)]
    pub(crate) link: LinkArgs,

    /// How the machine is built; the hypervisor must be the one that it ran on.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,

    /// A rolling history of it.
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
