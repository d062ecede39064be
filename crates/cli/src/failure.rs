//! How the program fails: one message, what the guest is doing now, what to do, and an exit code of its own.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

impl Code {
    /// The code with which another process of this program ended.
    pub(crate) fn of_exit(status: Option<i32>) -> Self {
        let codes = [
            Self::Usage,
            Self::ImageInvalid,
            Self::LayerMissing,
            Self::NotRestorable,
            Self::NameTaken,
            Self::NoHypervisor,
            Self::Store,
            Self::Kernel,
            Self::NotFound,
            Self::Tracking,
            Self::CheckFailed,
            Self::Busy,
            Self::Refused,
            Self::Link,
            Self::Goal,
            Self::Undecided,
            Self::Cancelled,
            Self::Children,
        ];
        codes.into_iter().find(|code| Some(*code as i32) == status).unwrap_or(Self::Failed)
    }
}

/// Exit codes; the help text lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Code {
    /// A reason without a code of its own.
    Failed = 1,
    /// Wrong usage, found after the command line was parsed.
    Usage = 2,
    /// An image is truncated, damaged or foreign.
    ImageInvalid = 3,
    /// An image needs another that is not there.
    LayerMissing = 4,
    /// An image cannot be restored on this host.
    NotRestorable = 5,
    /// A name, and so its socket, is in use.
    NameTaken = 6,
    /// No usable hypervisor.
    NoHypervisor = 7,
    /// The store could not take the image.
    Store = 8,
    /// The kernel file cannot be booted.
    Kernel = 9,
    /// No such machine, no such image.
    NotFound = 10,
    /// Tracking is not possible as asked.
    Tracking = 11,
    /// Memory is not what it should be.
    CheckFailed = 12,
    /// The machine does something else just now.
    Busy = 13,
    /// The destination does not take the machine.
    Refused = 14,
    /// The other side of a migration cannot be reached, or was lost.
    Link = 15,
    /// The downtime asked for cannot be had.
    Goal = 16,
    /// A person has to say which side runs the guest.
    Undecided = 17,
    /// It was called off.
    Cancelled = 18,
    /// An image has children that would stay behind.
    Children = 19,
}

/// A command that failed.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// What happened, to what.
    pub(crate) message: String,
    /// What the guest does now, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) guest: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
    /// The first pages that an audit found to have escaped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    escapes: Vec<ringmark_control::Escape>,
    /// Whether stdout has its one document already.
    #[serde(skip)]
    documented: bool,
}

/// The result of a command.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            guest: None,
            advice: None,
            escapes: Vec::new(),
            documented: false,
        }
    }

    pub(crate) fn guest(mut self, guest: impl Into<String>) -> Self {
        self.guest = Some(guest.into());
        self
    }

    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    pub(crate) fn escapes(mut self, escapes: &[ringmark_control::Escape]) -> Self {
        self.escapes = escapes.to_vec();
        self
    }

    /// The command has printed its document, which says what failed.
    pub(crate) fn documented(mut self) -> Self {
        self.documented = true;
        self
    }

    /// Prints the failure: for people on stderr, with `json` as a document on stdout.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        eprintln!("ringmark: {}", self.message);
        if let Some(guest) = &self.guest {
            eprintln!("  guest: {guest}");
        }
        if let Some(advice) = &self.advice {
            eprintln!("  to do: {advice}");
        }
        if json && !self.documented {
            crate::output::json(&serde_json::json!({ "schema": crate::output::SCHEMA, "error": self }));
        }
        ExitCode::from(self.code as u8)
    }
}

/// Adds a code to any error.
pub(crate) trait OrFail<T> {
    /// Fails with `code` and the error's own words.
    fn or_fail(self, code: Code) -> Result<T>;
}

impl<T, E: fmt::Display> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, code: Code) -> Result<T> {
        self.map_err(|error| Failure::new(code, error))
    }
}
