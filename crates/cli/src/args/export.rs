//! Arguments of `export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::StoreArgs;

/// How memory is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Each byte at its guest-physical address; sparse where there is no memory or only zeros.
    Raw,
    /// A core file for debuggers, with the registers of the vCPUs; addresses are guest-physical.
    Elf,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A machine's name, for its newest image, or an image's identity or the beginning of one.
    pub(crate) image: String,

    /// The file to write, which must not exist.
    pub(crate) file: PathBuf,

    /// How memory is written.
    #[arg(long, value_enum, default_value = "raw")]
    pub(crate) format: ExportFormat,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
