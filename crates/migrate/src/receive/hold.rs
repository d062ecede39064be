//! Standing still until it is known what the source did, and answering it when it asks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::{LOOK, SharedStop};
use crate::handover::{Destination, DestinationDuty};
use crate::link::{Link, Listener};
use crate::wire::{Message, Role, Session, Standing};

/// What a person says who has looked at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The guest does not run there, and never will: let it run here.
    Run,
    /// It runs there: give up what has arrived.
    Discard,
}

/// Waits for the source's word, or a person's, on what to do with a machine that is prepared. With `Running` comes the
/// connection on which the source waits to hear it, if it was the source who said so.
pub(super) fn wait(
    listener: &Listener,
    session: Session,
    mut side: Destination,
    decide: &mut dyn FnMut() -> Option<Decision>,
) -> io::Result<(Destination, Option<Link>)> {
    loop {
        match decide() {
            Some(Decision::Run) => return Ok((side.commit().0, None)),
            Some(Decision::Discard) => return Ok((side.abort().0, None)),
            None => {}
        }
        let Some((mut link, role, _)) = listener.accept(LOOK)? else { continue };
        if role != Role::Inquiry || !asked(&mut link, session) {
            answer(&mut link, role, None);
            continue;
        }
        if Message::Standing(side.standing()).send(&mut link).is_err() {
            continue;
        }
        let duty = match Message::receive(&mut link) {
            Ok(Message::Commit { session: meant }) if meant == session => {
                let (now, duty) = side.commit();
                side = now;
                duty
            }
            Ok(Message::Abort { session: meant, .. }) if meant == session => {
                let (now, duty) = side.abort();
                side = now;
                duty
            }
            // The source asked, and is lost again.
            _ => DestinationDuty::Hold,
        };
        match duty {
            DestinationDuty::Run => return Ok((side, Some(link))),
            DestinationDuty::Discard => return Ok((side, None)),
            DestinationDuty::Hold | DestinationDuty::Continue => {}
        }
    }
}

/// Whether the question on `link` is after `session`.
fn asked(link: &mut Link, session: Session) -> bool {
    matches!(Message::receive(link), Ok(Message::Ask { session: meant }) if meant == session)
}

/// Turns away a connection that is not waited for, with a word where there is one.
pub(super) fn answer(link: &mut Link, role: Role, standing: Option<Standing>) {
    let refusal = || crate::wire::Refusal {
        what: "another machine is arriving here".into(),
        advice: Some("try again later".into()),
    };
    // Whoever does not listen to the answer has none.
    let _ = match role {
        Role::Inquiry => Message::Standing(standing.unwrap_or(Standing::Unknown)).send(link),
        Role::Control => Message::Refuse(refusal()).send(link),
        Role::Stream => Ok(()),
    };
}

/// Answers a connection while nothing arrives; `discarded` is the session that was given up last, and never runs here.
pub(super) fn answer_about(link: &mut Link, role: Role, discarded: Option<Session>) {
    let known = role == Role::Inquiry && discarded.is_some_and(|session| asked(link, session));
    answer(link, role, known.then_some(Standing::Discarded));
}

/// Answers a source that has not heard that its guest runs here. Dropped, it answers no more.
#[derive(Debug)]
pub struct Answering {
    stop: SharedStop,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    pub(super) fn start(listener: Listener, session: Session) -> io::Result<Self> {
        let stop: SharedStop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("handed-over".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let (mut link, role) = match listener.accept(LOOK) {
                    Ok(Some((link, role, _))) => (link, role),
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::warn!(%error, "sources are not answered any more");
                        return;
                    }
                };
                let meant = role == Role::Inquiry && asked(&mut link, session);
                answer(&mut link, role, meant.then_some(Standing::Running));
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so, and answers no more either way.
            let _ = thread.join();
        }
    }
}
