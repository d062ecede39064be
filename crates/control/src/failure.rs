//! What a machine answers when it refuses or fails.

use serde::{Deserialize, Serialize};

use crate::{Escape, GuestState};

/// A refusal or a failure, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// What the guest is doing now.
    pub guest: GuestState,
    /// What to do.
    pub advice: String,
    /// The first [`Failure::ESCAPES`] pages that the audit found, with [`Code::Escape`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escapes: Vec<Escape>,
}

impl Failure {
    /// The most escapes that travel.
    pub const ESCAPES: usize = 64;

    /// A failure with the guest's state unknown and no advice.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            guest: GuestState::Unknown,
            advice: String::new(),
            escapes: Vec::new(),
        }
    }

    /// The same with what the guest is doing.
    #[must_use]
    pub fn guest(self, guest: GuestState) -> Self {
        Self { guest, ..self }
    }

    /// The same with pages that escaped, of which the first [`ESCAPES`](Self::ESCAPES) are kept.
    #[must_use]
    pub fn escapes(self, escapes: impl IntoIterator<Item = Escape>) -> Self {
        Self { escapes: escapes.into_iter().take(Self::ESCAPES).collect(), ..self }
    }

    /// The same with what to do.
    #[must_use]
    pub fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $http:literal;)*) => {
        /// The kinds of failure. Names are stable; one that this version does not know reads as
        /// [`Code::Internal`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// The program is at fault.
            #[serde(rename = "internal", other)]
            Internal,
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)* Self::Internal];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* Self::Internal => "internal" }
            }

            /// The HTTP status it is answered with.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)* Self::Internal => 500 }
            }
        }
    };
}

codes! {
    /// The request is malformed, or of an unknown schema.
    BadRequest = "bad_request", 400;
    /// There is no such route.
    NotFound = "not_found", 404;
    /// The route exists, with another method.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The body or the header is too large.
    TooLarge = "too_large", 413;
    /// The peer is another user.
    Forbidden = "forbidden", 403;
    /// A checkpoint, a migration or a prediction is under way already.
    Busy = "busy", 409;
    /// The guest is in no state for this: already stopped, for example.
    WrongState = "wrong_state", 409;
    /// This machine has no such thing.
    NotSupported = "not_supported", 501;
    /// The machine did not answer in time; what was asked for may still happen.
    Timeout = "timeout", 504;
    /// The store's disk is full.
    StoreFull = "store_full", 507;
    /// The store cannot be written or read for another reason.
    Store = "store", 500;
    /// Dirty tracking failed; the next checkpoint has to hold more, or everything.
    Tracking = "tracking", 500;
    /// The audit found a page that was written without being reported.
    Escape = "escape", 500;
    /// The hypervisor or the guest failed.
    Guest = "guest", 500;
    /// The destination does not take the machine; no page was sent.
    Refused = "refused", 409;
    /// The other side cannot be reached, or was lost before it was to run the guest.
    Unreachable = "unreachable", 502;
    /// The downtime that was asked for cannot be had.
    Goal = "goal", 409;
    /// It was called off.
    Cancelled = "cancelled", 409;
    /// The other side may run the guest and cannot be asked: a person has to decide.
    Undecided = "undecided", 504;
    /// The machine is shutting down.
    ShuttingDown = "shutting_down", 503;
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
