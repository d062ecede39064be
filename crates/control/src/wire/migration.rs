//! Migrations. The names in a report are QMP's where it has them, with hyphens; times there are in milliseconds, too.

use std::path::PathBuf;

use ringmark_migrate::report::Report;
use serde::{Deserialize, Serialize};

use super::{SCHEMA, first_schema};

/// Where a machine is to go, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// [`SCHEMA`]; a request without one is of version 1.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// `unix:PATH`, `tcp:HOST:PORT` or `tls:HOST:PORT`.
    pub to: String,
    /// The files of certificates, for `tls:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Plain TCP to another host is wanted.
    #[serde(default)]
    pub insecure: bool,
    /// How memory gets there.
    #[serde(default)]
    pub memory: MemoryWish,
    /// Milliseconds of downtime to aim at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downtime_ms: Option<f64>,
    /// Milliseconds after which no further round is begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_total_ms: Option<f64>,
    /// What gives way if the goal cannot be met.
    #[serde(default)]
    pub prefer: Prefer,
    /// Bytes a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// Connections for pages.
    #[serde(default = "one")]
    pub streams: u16,
    /// Go on with the last migration whose link was cut.
    #[serde(default)]
    pub resume: bool,
    /// Compare the whole of memory before the guest runs.
    #[serde(default)]
    pub verify_full: bool,
    /// Hash so much of memory at the cut, and fail if a page was written that no source reported: `100%`, `1%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
}

const fn one() -> u16 {
    1
}

impl MigrateRequest {
    /// A migration to `address` with nothing else asked for.
    #[must_use]
    pub fn to(address: impl Into<String>) -> Self {
        Self {
            schema: SCHEMA,
            to: address.into(),
            tls: None,
            insecure: false,
            memory: MemoryWish::default(),
            max_downtime_ms: None,
            max_total_ms: None,
            prefer: Prefer::default(),
            bandwidth: None,
            streams: 1,
            resume: false,
            verify_full: false,
            audit: None,
        }
    }
}

/// Files in PEM, as the machine's process reads them: absolute paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates of those who sign the other side's.
    pub authorities: PathBuf,
    /// This side's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How memory gets to the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryWish {
    /// By descriptor where both sides can, else as a copy.
    #[default]
    Auto,
    /// Page by page.
    Copy,
    /// By descriptor, or not at all.
    Descriptor,
}

/// What gives way if the downtime aimed at cannot be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// The goal: the migration is given up and the guest runs on.
    Guest,
    /// The migration: it is completed with the downtime that is possible.
    #[default]
    Downtime,
}

/// A migration on its way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MigrateProgress {
    /// What there is to report so far.
    pub report: Report,
    /// Whether the guest stands still.
    pub stopped: bool,
}

/// A completed migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Migration {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What it came to.
    #[serde(flatten)]
    pub report: Report,
}

/// What a person says who has looked at the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// [`SCHEMA`]; a request without one is of version 1.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// What.
    pub decision: Decision,
}

/// What becomes of a guest that stands still because it may run on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It does not run there, and never will: let it run here.
    Run,
    /// It runs there: give it up here.
    Discard,
}
