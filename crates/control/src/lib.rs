//! The Unix socket of a running machine: HTTP/1.1 with JSON, server and client.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | a [`Status`] |
//! | `POST /v1/checkpoint` | a [`CheckpointRequest`] or nothing as body; a stream of [`Event`]s, one JSON object a line: any number of `progress`, then one `result` or `error` |
//! | `POST /v1/migrate` | a [`MigrateRequest`]; a stream of [`MigrateEvent`]s as above, whose `result` is a [`Migration`] |
//! | `POST /v1/migrate/cancel` | the [`Status`]; the stream of the migration then ends with an error, the guest runs on |
//! | `POST /v1/predict` | a [`PredictRequest`] or nothing as body; after the guest was watched, one line: `result` with a [`Predicted`], or `error` |
//! | `POST /v1/decide` | a [`Decide`], on either side of a migration that is undecided; the [`Status`] afterwards |
//! | `POST /v1/check` | a [`Check`], which may take minutes |
//! | `POST /v1/pause`, `/v1/resume`, `/v1/stop` | the [`Status`] afterwards |
//!
//! Every answer carries `schema` ([`SCHEMA`]); sizes are in bytes, times in milliseconds with a fraction. Whatever is
//! refused answers `{"schema", "error": {code, message, guest, advice}}`, a [`Failure`]: what happened, what the guest is doing
//! now, and what to do; with [`Code::Escape`] also the first pages that escaped. [`Code`]s are stable.
//!
//! The socket is its owner's alone: mode 0600 in a directory that nobody else may enter, and both ends ask the kernel
//! who the other is. `curl --unix-socket PATH http://localhost/v1/status` works.
//!
//! The server has a thread of its own; a [`Service`] is called from other threads, so that its methods may block. A
//! checkpoint goes on when the client that asked for it goes away, a migration or a prediction is then cancelled; while one of
//! them runs, another is refused as [`Code::Busy`].

mod client;
mod connection;
mod events;
mod failure;
mod patient;
mod routes;
mod server;
mod service;
mod socket;
mod wire;

pub use client::{Client, ClientError, ConnectError};
pub use failure::{Code, Failure};
pub use server::Server;
pub use service::Service;
pub use socket::BindError;
pub use wire::{
    Advice, Check, CheckOutcome, Checkpoint, CheckpointRequest, Decide, Decision, Escape, Event, GuestState,
    MemoryWish, MigrateEvent, MigrateProgress, MigrateRequest, Migration, Phase, PredictRequest, Predicted,
    Prefer, Progress, SCHEMA, Schedule, Status, TlsFiles,
};
