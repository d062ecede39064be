//! How two hosts reach one another.

use std::path::PathBuf;

use clap::Args;

/// How the other side is reached, and believed.
#[derive(Clone, Debug, Args)]
pub(crate) struct LinkArgs {
    /// This side's certificate, in PEM, with those between it and an authority; for tls:.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The private key of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Certificates of the authorities that sign the other side's. Both sides show one, and no others are believed.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Allow tcp: to or from other hosts: everybody on the way reads the guest's memory, and may change it.
    #[arg(long)]
    pub(crate) insecure: bool,
}
