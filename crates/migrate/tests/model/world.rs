//! What there is: two processes, and connections with messages on their way.

use ringmark_migrate::handover::{Destination, Source};
use ringmark_migrate::wire::Standing;

/// A message of the switchover; pages and state are all in `Prepare`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Prepare,
    Prepared,
    Failed,
    Commit,
    Abort,
    Running,
    Ask,
    Standing(Standing),
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    ToSource,
    ToDestination,
}

/// A connection. What was sent arrives in order or not at all; once it is cut, any part of what is on its way may arrive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Connection {
    pub(crate) inquiry: bool,
    pub(crate) up: bool,
    /// The ends that are open; the other side of one that is not finds out when nothing is on its way any more.
    pub(crate) source_end: bool,
    pub(crate) destination_end: bool,
    pub(crate) there: Vec<Message>,
    pub(crate) back: Vec<Message>,
}

impl Connection {
    pub(crate) fn new(inquiry: bool, there: Vec<Message>) -> Self {
        Self { inquiry, up: true, source_end: true, destination_end: true, there, back: Vec::new() }
    }

    /// What is on its way.
    pub(crate) fn queue(&mut self, way: Way) -> &mut Vec<Message> {
        match way {
            Way::ToSource => &mut self.back,
            Way::ToDestination => &mut self.there,
        }
    }

    /// Sent on a connection that is cut, it is lost, and the sender does not know.
    pub(crate) fn send(&mut self, way: Way, message: Message) {
        if self.up {
            self.queue(way).push(message);
        }
    }

    /// Whether somebody still reads at the end to which messages on this way go.
    pub(crate) fn is_read(&self, way: Way) -> bool {
        match way {
            Way::ToSource => self.source_end,
            Way::ToDestination => self.destination_end,
        }
    }

    /// Whether the end to which messages on this way go may find out that nothing more comes.
    pub(crate) fn is_over(&self, way: Way) -> bool {
        let (open, other, queue) = match way {
            Way::ToSource => (self.source_end, self.destination_end, &self.back),
            Way::ToDestination => (self.destination_end, self.source_end, &self.there),
        };
        open && queue.is_empty() && !(self.up && other)
    }
}

/// One state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) source: Source,
    pub(crate) source_dead: bool,
    /// The migration has come to its end at the source.
    pub(crate) over: bool,
    /// What the source sends next.
    pub(crate) outbox: Option<Message>,
    pub(crate) destination: Destination,
    pub(crate) destination_dead: bool,
    /// Another process is where the destination was to be asked.
    pub(crate) moved: bool,
    pub(crate) connections: Vec<Connection>,
    pub(crate) cuts: u8,
    pub(crate) kills: u8,
    /// The destination has said that it is prepared.
    pub(crate) promised: bool,
    /// The source, or a person, has told it to give the guest up.
    pub(crate) released: bool,
    /// The source has committed a second time.
    pub(crate) committed_again: bool,
}

impl World {
    pub(crate) fn new(cuts: u8, kills: u8) -> Self {
        Self {
            source: Source::Running,
            source_dead: false,
            over: false,
            outbox: None,
            destination: Destination::Receiving,
            destination_dead: false,
            moved: false,
            connections: vec![Connection::new(false, Vec::new())],
            cuts,
            kills,
            promised: false,
            released: false,
            committed_again: false,
        }
    }

    pub(crate) fn runs_at_source(&self) -> bool {
        !self.source_dead && self.source.may_run()
    }

    pub(crate) fn runs_at_destination(&self) -> bool {
        !self.destination_dead && self.destination.may_run()
    }

    /// The connection on which the source talks.
    pub(crate) fn source_talks(&self) -> Option<usize> {
        self.connections.iter().position(|connection| connection.source_end)
    }

    /// Whether the destination still reads its control connection.
    pub(crate) fn destination_follows(&self) -> bool {
        self.connections.iter().any(|connection| !connection.inquiry && connection.destination_end)
    }

    /// Stands still at the source until it hears from the destination or from a person.
    pub(crate) fn source_asks(&self) -> bool {
        !self.source_dead && !self.over && self.source == Source::Committing && self.source_talks().is_none()
    }

    /// Stands still at the destination until it hears from the source or from a person.
    pub(crate) fn destination_holds(&self) -> bool {
        !self.destination_dead && self.destination == Destination::Prepared && !self.destination_follows()
    }

    /// Forgets connections of which nobody holds an end.
    pub(crate) fn tidy(&mut self) {
        self.connections.retain(|connection| connection.source_end || connection.destination_end);
        for connection in &mut self.connections {
            if !connection.source_end {
                connection.back.clear();
            }
            if !connection.destination_end {
                connection.there.clear();
            }
        }
    }
}
