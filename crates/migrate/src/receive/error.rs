//! Why nothing arrived.

use std::io;

use ringmark_track::{BoxError, MemoryError};

use super::Answering;
use crate::codec::DecodeError;
use crate::wire::frame::FrameError;
use crate::wire::{MessageError, Refusal, Session};

/// A machine that runs here.
#[derive(Debug)]
pub struct Arrived<M> {
    /// The machine.
    pub machine: M,
    /// The migration.
    pub session: Session,
    /// Answers a source that has not heard that the guest runs here; to be kept as long as the machine.
    pub answering: Answering,
}

/// Why nothing arrived.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The socket or a thread failed.
    #[error("nothing can be received: {0}")]
    Io(#[from] io::Error),
    /// The connection failed, or the source sent what is none of the protocol's.
    #[error("the source was lost: {0}; the guest runs on there")]
    Link(#[from] MessageError),
    /// It sent another message than the one that was due.
    #[error("the source sent `{0}` out of turn; the guest runs on there")]
    OutOfTurn(&'static str),
    /// The machine is not taken.
    #[error("the machine was not taken: {0}; the guest runs on at its source")]
    Refused(Refusal),
    /// The connections for pages did not come.
    #[error("{joined} of {count} connections for pages came; the guest runs on at its source")]
    Joining {
        /// How many were agreed.
        count: u16,
        /// How many came.
        joined: usize,
    },
    /// A frame of pages makes no sense.
    #[error("{0}; the guest runs on at its source")]
    Pages(#[from] DecodeError),
    /// Memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Memory here is not what it is at the source.
    #[error(
        "{what} differ: {sent:#018x} at the source, {received:#018x} here; the guest runs on at its source"
    )]
    Digest {
        /// What was compared.
        what: &'static str,
        /// At the source.
        sent: u64,
        /// Here.
        received: u64,
    },
    /// The state cannot be put in place.
    #[error("the state of the machine cannot be used here: {0}; the guest runs on at its source")]
    Load(#[source] BoxError),
    /// The source gave up.
    #[error("the source keeps the guest: {0}")]
    Aborted(String),
    /// The guest was handed over and cannot be run.
    #[error("the guest was handed over to this host and could not be let run: {0}; restore its newest image")]
    Run(#[source] BoxError),
    /// The wait was called off.
    #[error("the wait was called off before a machine had come")]
    Stopped,
}

impl From<FrameError> for ReceiveError {
    fn from(error: FrameError) -> Self {
        Self::Link(error.into())
    }
}
