//! Arguments of `rm`.

use clap::Args;

use super::StoreArgs;

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Images by their identities or the beginnings of them.
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,

    /// Even if children stay behind. They are complete without their parent and lose only their line of descent.
    #[arg(long)]
    pub(crate) orphan: bool,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
