//! Talking to a running machine.

use std::path::Path;

use ringmark_control::{self as control, Client, ClientError, ConnectError, GuestState};

use crate::failure::{Code, Failure, Result};

/// A connection to the machine `name`.
pub(crate) fn connect(socket: &Path, name: &str) -> Result<Client> {
    let client = Client::connect(socket).map_err(|error| connect_failure(&error, name))?;
    match client.status() {
        Ok(_) => Ok(client),
        Err(ClientError::Connect(error)) => Err(connect_failure(&error, name)),
        Err(error) => Err(failure(&error)),
    }
}

fn connect_failure(error: &ConnectError, name: &str) -> Failure {
    let failure = |code| Failure::new(code, format!("machine `{name}` cannot be reached: {error}"));
    match error {
        ConnectError::NoMachine(_) | ConnectError::Gone(_) => failure(Code::NotFound)
            .guest("there is none: no process runs it")
            .advice(format!(
                "start it with `ringmark run --name {name}`, or restore its newest image with `ringmark restore {name}`"
            )),
        _ => failure(Code::Failed).guest("not known").advice("ask as the user who runs it"),
    }
}

/// What the machine answered instead of a result.
pub(crate) fn failure(error: &ClientError) -> Failure {
    let ClientError::Failed(refusal) = error else {
        return Failure::new(Code::Failed, error)
            .guest("not known: the machine's process did not answer")
            .advice("look at the terminal in which the machine runs");
    };
    let code = match refusal.code {
        control::Code::Busy => Code::Busy,
        control::Code::StoreFull | control::Code::Store => Code::Store,
        control::Code::Tracking => Code::Tracking,
        control::Code::Escape => Code::CheckFailed,
        control::Code::Refused => Code::Refused,
        control::Code::Unreachable => Code::Link,
        control::Code::Goal => Code::Goal,
        control::Code::Undecided => Code::Undecided,
        control::Code::Cancelled => Code::Cancelled,
        control::Code::WrongState | control::Code::ShuttingDown => Code::NotFound,
        _ => Code::Failed,
    };
    let guest = match refusal.guest {
        GuestState::Running => "runs on",
        GuestState::Paused => "is paused, as it was",
        GuestState::Stopped => "has ended",
        GuestState::Arriving => "is still arriving",
        GuestState::Undecided => "stands still here, for it may run on the other side",
        GuestState::Left => "runs on the other side",
        _ => "not known",
    };
    let failure = Failure::new(code, &refusal.message).guest(guest).escapes(&refusal.escapes);
    if refusal.advice.is_empty() { failure } else { failure.advice(&refusal.advice) }
}
