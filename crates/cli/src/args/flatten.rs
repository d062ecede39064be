//! Arguments of `flatten`.

use clap::Args;

use super::StoreArgs;

/// Arguments of `flatten`.
#[derive(Debug, Args)]
pub(crate) struct FlattenArgs {
    /// A machine's name, for its newest image, or an image's identity or the beginning of one.
    pub(crate) image: String,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
