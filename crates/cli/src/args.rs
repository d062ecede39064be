//! The command line.

mod diff;
mod export;
mod flatten;
mod import;
mod link;
mod migrate;
mod predict;
mod prune;
mod receive;
mod rm;
mod schedule;
mod torture;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringmark_track::AuditRate;

use crate::size::Bytes;
pub(crate) use diff::{Canvas, DiffArgs};
pub(crate) use export::{ExportArgs, ExportFormat};
pub(crate) use flatten::FlattenArgs;
pub(crate) use import::ImportArgs;
pub(crate) use link::LinkArgs;
pub(crate) use migrate::{Decision, MemoryWish, MigrateArgs, Prefer, Verify};
pub(crate) use predict::PredictArgs;
pub(crate) use prune::PruneArgs;
pub(crate) use receive::ReceiveArgs;
pub(crate) use rm::RmArgs;
pub(crate) use schedule::ScheduleArgs;
pub(crate) use torture::TortureArgs;

/// Dirty-memory tracking, live incremental checkpoints and live migration of virtual machines.
#[derive(Debug, Parser)]
#[command(name = "ringmark", version, max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print one JSON document on stdout and nothing else there.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// No progress on stderr; errors still are.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done                                  7  no usable hypervisor (see `ringmark doctor`)
  1  failed, for a reason that was said    8  the store could not take the image
  2  wrong usage                           9  the kernel file cannot be booted
  3  an image is invalid                  10  no such machine or image
  4  a layer of an image is missing       11  tracking is not possible as asked
  5  an image cannot be restored here     12  a check of memory failed
  6  the name is taken                    13  the machine is busy

 14  the destination does not take the machine; no page was sent
 15  the other side of a migration cannot be reached, or was lost
 16  the downtime asked for cannot be had, and it was preferred that the guest stays
 17  a migration is undecided: the guest stands still until a person says which side runs it
 18  cancelled
 19  an image has children that would stay behind; none was removed";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run, checkpoint, kill, restore and check a guest: the whole way, in under a minute.
    Demo(DemoArgs),
    /// Run a machine in the foreground.
    Run(RunArgs),
    /// Take a checkpoint of a running machine.
    Checkpoint(CheckpointArgs),
    /// Restore a machine from an image and run it in the foreground.
    Restore(RestoreArgs),
    /// Say what sending a running machine away would come to.
    ///
    /// Its guest is watched while it runs on, slowed down a little; nothing is sent, and no page is lost to the next checkpoint;
    /// until the look is over none is taken.
    Predict(PredictArgs),
    /// Send a running machine to another host or process while its guest runs.
    Migrate(MigrateArgs),
    /// Wait for a machine that is sent here, and run it in the foreground.
    Receive(ReceiveArgs),
    /// List the images of a store.
    Images(ImagesArgs),
    /// Check images of a store.
    Verify(VerifyArgs),
    /// Say which pages differ between two images, and show where.
    Diff(DiffArgs),
    /// Write a base with the contents of an image; the image stays.
    Flatten(FlattenArgs),
    /// Remove the images that a policy does not keep.
    Prune(PruneArgs),
    /// Remove images.
    Rm(RmArgs),
    /// Write the memory of an image to a file, raw or as a core file for debuggers.
    Export(ExportArgs),
    /// Make an image of a file of raw memory, to look into and to compare.
    Import(ImportArgs),
    /// Say what this host can do, and what stands in the way.
    ///
    /// Its exit code is 0 for a host that is fit, 1 for one with caveats, 2 for one on which only the engine runs.
    Doctor,
    /// Hold a hypervisor to the rules of KVM's dirty tracking.
    Conformance(ConformanceArgs),
    /// Run random guests under every known fault, and check that no page is lost.
    ///
    /// Exits with 12 at the first page that is, and says how to repeat it.
    Torture(TortureArgs),
}

/// Which hypervisor runs the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hypervisor {
    /// KVM where this host has one that may be used, else the engine.
    #[default]
    Auto,
    /// The kernel's, through /dev/kvm.
    Kvm,
    /// The software engine: no hardware, built-in guests only.
    Engine,
}

/// How written pages are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tracking {
    /// Rings where the hypervisor has them, with the backup bitmap where it offers one; else bitmaps.
    #[default]
    Auto,
    /// Dirty rings, one a vCPU.
    Ring,
    /// A stand-alone bitmap a memslot.
    Bitmap,
}

/// What the tracking is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckWith {
    /// Write protection by the host's page tables: every page that was written (Linux 6.7, userfaultfd).
    Uffd,
    /// A hash of every page: every page whose content changed.
    Hash,
}

/// What a built-in guest does to its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// Page after page, round and round.
    Sequential,
    /// Any page, each as likely.
    Uniform,
    /// Few pages often, many seldom.
    Zipf,
    /// Nothing for a while, then many at once.
    Bursty,
    /// The same value again: pages are written and do not change.
    Rewrite,
}

/// Where images live.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreArgs {
    /// The image store: a directory, by default `ringmark/images` in the XDG state folder; or `s3://BUCKET/PREFIX`,
    /// `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, with credentials from the environment as usual there
    /// (`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_KEY`, …).
    #[arg(long, env = "RINGMARK_STORE", value_name = "DIR|URL")]
    pub(crate) store: Option<PathBuf>,
}

/// How a machine is built.
#[derive(Clone, Debug, Args)]
pub(crate) struct MachineArgs {
    /// Which hypervisor runs the guest.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) hypervisor: Hypervisor,

    /// How written pages are found.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) tracking: Tracking,

    /// Entries of each dirty ring: a power of two. By default as many as the hypervisor allows.
    #[arg(long, value_name = "ENTRIES")]
    pub(crate) ring_size: Option<u32>,

    /// At every checkpoint, hash memory and fail if a page changed that no source reported.
    ///
    /// Without RATE all of memory is hashed. The guest stands still for it (about 0.2 s a GiB and core), which is
    /// reported apart from the pause.
    ///
    /// With a RATE such as 1%, each page is watched with that probability p, chosen anew at each checkpoint, for production:
    /// of k pages that are lost between two checkpoints, one is found with probability 1 - (1 - p)^k. At 1% that is 1% for
    /// one lost page, 63% for 100 and 99% for 500, each time; a page that stays lost is looked for at every checkpoint.
    #[arg(long, value_name = "RATE", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    pub(crate) audit: Option<AuditRate>,

    /// Hold what the tracking reports against a second look at every checkpoint, and fail one in which a page was written
    /// that no source reported. The guest stands still for it, which is reported apart from the pause.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) check_with: Option<CheckWith>,

    /// End the machine when the process that started this one ends, however it ends: for scripts and tests.
    #[arg(long)]
    pub(crate) die_with_parent: bool,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Which hypervisor runs the guest.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) hypervisor: Hypervisor,

    /// How written pages are found.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) tracking: Tracking,

    /// Guest memory.
    #[arg(long, default_value = "256M", value_name = "SIZE")]
    pub(crate) memory: Bytes,

    /// Memory that the guest writes all the time.
    #[arg(long, default_value = "32M", value_name = "SIZE")]
    pub(crate) hot: Bytes,

    /// Checkpoints to take; at least 2.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(crate) checkpoints: u32,

    /// Keep the store of the demonstration here instead of removing it.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The machine's name, by which other commands find it.
    #[arg(long, default_value = "vm1")]
    pub(crate) name: String,

    /// On x86-64 an ELF image with a PVH note: a Linux `vmlinux`, or any other. On arm64 a flat image: a Linux `Image`.
    #[arg(long, value_name = "FILE", conflicts_with = "guest")]
    pub(crate) kernel: Option<PathBuf>,

    /// The command line handed to the kernel.
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "")]
    pub(crate) cmdline: String,

    /// A built-in guest, which certifies every page it writes.
    #[arg(long, value_enum)]
    pub(crate) guest: Option<Pattern>,

    /// Memory that the built-in guest writes; by default a quarter of its memory.
    #[arg(long, value_name = "SIZE")]
    pub(crate) hot: Option<Bytes>,

    /// Guest memory.
    #[arg(long, default_value = "256M", value_name = "SIZE")]
    pub(crate) memory: Bytes,

    /// vCPUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) vcpus: u32,

    /// How the machine is built.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,

    /// A rolling history of it.
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `checkpoint`.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// The machine's name.
    pub(crate) vm: String,

    /// Take a base with every page instead of an increment.
    #[arg(long)]
    pub(crate) full: bool,

    /// Audit this checkpoint: fail it if a page changed that no source reported.
    ///
    /// A machine that was started without --audit has nothing to compare with the first time: this checkpoint then takes
    /// the hashes with which the next one of this kind compares. With a RATE such as 1%, a random share of memory is
    /// watched; `ringmark run --help` says how surely that finds a lost page.
    #[arg(long, value_name = "RATE", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    pub(crate) audit: Option<AuditRate>,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// A machine's name, for its newest image, or an image's identity or the beginning of one.
    pub(crate) image: String,

    /// The restored machine's name; by default that of the machine in the image.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Start the guest at once; its memory arrives while it runs, what it was writing at the cut first, and each page is
    /// checked as it comes. Until all is there the store is needed, and a page that cannot be had ends the machine. Needs
    /// userfaultfd (see `ringmark doctor`).
    #[arg(long)]
    pub(crate) lazy: bool,

    /// Restore the image N times at once: machines NAME-1 to NAME-N, each in a process of its own, that share the image's
    /// memory as long as they do not write it. With --lazy it arrives once for all of them.
    ///
    /// Their consoles are printed line by line behind their names; nothing can be typed at them. They end with this process.
    /// Each begins with the same memory, so also with the same random numbers, keys and addresses in it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) clones: Option<u32>,

    /// For this program itself: be clone NUMBER, whose memory comes by the standard input.
    #[arg(long, value_name = "NUMBER", hide = true, requires = "clones")]
    pub(crate) clone: Option<u32>,

    /// Read and check all of memory before the guest starts (the default): a damaged image is found before the guest has
    /// done anything, and the store is not needed afterwards.
    #[arg(long, conflicts_with = "lazy")]
    pub(crate) eager: bool,

    /// How the machine is built; the hypervisor must be the one the image was taken on.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,

    /// A rolling history of it.
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `images`.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this machine.
    pub(crate) vm: Option<String>,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A machine's name, an image's identity or the beginning of one; without it, every image of the store.
    pub(crate) image: Option<String>,

    /// Read everything: check every byte of every pack, and the hash of every page. Without it, the structure and its
    /// hashes are checked.
    #[arg(long)]
    pub(crate) deep: bool,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Which implementation is held to the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConformanceTarget {
    /// The software engine.
    #[default]
    Engine,
    /// This host's /dev/kvm.
    Kvm,
}

/// Which architecture's rules the engine plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rules {
    /// x86-64: total store order, no backup bitmap.
    X86,
    /// arm64: acquire and release, a backup bitmap, interrupt translation tables.
    #[default]
    Arm64,
}

/// Arguments of `conformance`.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    /// Which implementation is held to the rules.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) target: ConformanceTarget,

    /// Which architecture's rules the engine plays; a kernel has its own.
    #[arg(long, value_enum)]
    pub(crate) rules: Option<Rules>,

    /// Only cases whose id or name contains this.
    #[arg(long, value_name = "TEXT")]
    pub(crate) case: Option<String>,

    /// List the cases with what each proves and the kernel function it comes from; run none.
    #[arg(long)]
    pub(crate) list: bool,
}
