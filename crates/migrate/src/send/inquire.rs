//! Asking a destination what became of a session.

use super::DepartError;
use crate::link::{Connector, Link};
use crate::wire::{Message, Role, Session, Standing};

/// Where the destination stands with `session`. The connection is the one on which it can be told what to do next.
///
/// # Errors
/// If it cannot be reached or answers something else.
pub fn inquire(to: &Connector, session: Session) -> Result<(Standing, Link), DepartError> {
    let (mut link, _) = to.connect(Role::Inquiry)?;
    Message::Ask { session }.send(&mut link)?;
    match Message::receive(&mut link)? {
        Message::Standing(standing) => Ok((standing, link)),
        other => Err(DepartError::OutOfTurn(other.name())),
    }
}
