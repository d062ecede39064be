//! Taking a machine that another process sends.

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
