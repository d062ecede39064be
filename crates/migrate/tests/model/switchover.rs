//! What may happen next.

use ringmark_migrate::handover::{Destination, DestinationDuty, Source, SourceDuty};
use ringmark_migrate::wire::Standing;
use stateright::{Model, Property};

use super::world::{Connection, Message, Way, World};

/// What always holds.
pub(crate) const PROMISES: [&str; 3] = [
    "at most one guest runs",
    "a guest that does not run is known to be undecided",
    "what was promised is kept until it is released",
];

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The source enters `Committing` when the commit has been sent.
    CommitsAfterSending,
    /// A source in `Committing` runs on when its link is lost.
    RunsOnWhenCommitting,
    /// A destination in `Prepared` discards and forgets when its link is lost.
    DiscardsByItself,
    /// The source takes a session that nobody knows for one that was discarded.
    TakesUnknownForDiscarded,
    /// The source takes the commit that it has sent for one that has arrived.
    EndsWhenSent,
    /// A source in `Committing` does not ask.
    NeverAsks,
    /// A person lets the guest run at the destination because it does not run at the source just then.
    PersonGuesses,
}

/// One step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The source stops its guest for the switchover.
    Stop,
    /// It sends what it has to say.
    Send,
    /// It enters `Committing` (only where that comes after the sending).
    CommitLate,
    /// The operator cancels at the source, or a step fails there.
    CallOff,
    /// It asks on a new connection.
    Inquire,
    /// The first message on a connection arrives.
    Deliver(usize, Way),
    /// The pages and the state arrive, and something is wrong with them.
    ArriveBroken(usize),
    /// One end of a connection finds out that it is no more.
    Notice(usize, Way),
    /// A connection is cut.
    Cut(usize),
    /// The last message on a connection that is cut is lost.
    Lose(usize, Way),
    /// The source is killed.
    KillSource,
    /// The destination is killed.
    KillDestination,
    /// Another process comes to listen where the destination did.
    Move,
    /// Who knows how things stand at the destination decides at the source.
    DecideAtSource,
    /// Who knows how things stand at the source lets the guest run at the destination.
    RunAtDestination,
    /// Who knows how things stand at the source gives it up at the destination.
    GiveUp,
}

impl Action {
    /// Whether it happens by itself when nothing breaks any more.
    pub(crate) const fn is_peaceful(self) -> bool {
        !matches!(
            self,
            Self::CallOff
                | Self::ArriveBroken(_)
                | Self::Cut(_)
                | Self::KillSource
                | Self::KillDestination
                | Self::Move
        ) && !self.is_decision()
    }

    /// Whether a person does it.
    pub(crate) const fn is_decision(self) -> bool {
        matches!(self, Self::DecideAtSource | Self::RunAtDestination | Self::GiveUp)
    }
}

/// A switchover.
#[derive(Clone, Debug)]
pub(crate) struct Switchover {
    /// Connections that may be cut.
    pub(crate) cuts: u8,
    /// Processes that may be killed.
    pub(crate) kills: u8,
    /// Whether another process may take the destination's address.
    pub(crate) moves: bool,
    pub(crate) broken: Vec<Broken>,
}

impl Switchover {
    pub(crate) fn new(broken: &[Broken]) -> Self {
        Self { cuts: 4, kills: 2, moves: true, broken: broken.to_vec() }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken.contains(&broken)
    }

    /// The source's migration is over; what is left is to say so.
    fn call_off(world: &mut World) {
        let (side, duty) = world.source.fail();
        assert_eq!(duty, SourceDuty::RunOn, "only what is not committed is called off");
        (world.source, world.over, world.outbox) = (side, true, Some(Message::Abort));
        world.released = true;
    }

    fn source_hears(&self, world: &mut World, at: usize, message: Message) {
        let (side, duty) = match message {
            Message::Prepared if self.is(Broken::CommitsAfterSending) => {
                world.outbox = Some(Message::Commit);
                return;
            }
            Message::Prepared => {
                world.source = world.source.commit();
                world.outbox = Some(Message::Commit);
                return;
            }
            Message::Failed => return Self::call_off(world),
            Message::Running => world.source.hear(Standing::Running),
            Message::Standing(Standing::Unknown) if self.is(Broken::TakesUnknownForDiscarded) => {
                world.source.hear(Standing::Discarded)
            }
            Message::Standing(standing) => world.source.hear(standing),
            _ => world.source.fail(),
        };
        world.source = side;
        match duty {
            SourceDuty::CommitAgain => (world.outbox, world.committed_again) = (Some(Message::Commit), true),
            SourceDuty::RunOn | SourceDuty::End => {
                world.over = true;
                world.connections[at].source_end = false;
            }
            // It asks again.
            SourceDuty::Ask => world.connections[at].source_end = false,
        }
    }

    fn destination_hears(&self, world: &mut World, at: usize, message: Message) {
        let connection = &mut world.connections[at];
        let mut answer = |message| connection.send(Way::ToSource, message);
        match message {
            Message::Prepare => {
                world.destination = world.destination.prepare();
                world.promised = true;
                answer(Message::Prepared);
            }
            Message::Ask => {
                let standing = world.destination.standing();
                let forgets = self.is(Broken::DiscardsByItself) && standing == Standing::Discarded;
                answer(Message::Standing(if forgets { Standing::Unknown } else { standing }));
            }
            Message::Commit => {
                let (side, duty) = world.destination.commit();
                world.destination = side;
                match duty {
                    DestinationDuty::Run | DestinationDuty::Continue => answer(Message::Running),
                    DestinationDuty::Discard => connection.destination_end = false,
                    DestinationDuty::Hold => {}
                }
            }
            Message::Abort => {
                (world.destination, _) = world.destination.abort();
                connection.destination_end = false;
            }
            _ => (world.destination, _) = world.destination.fail(),
        }
    }

    fn source_notices(&self, world: &mut World, at: usize) {
        world.connections[at].source_end = false;
        world.outbox = None;
        if world.over {
            return;
        }
        let (side, duty) = world.source.fail();
        world.source = side;
        if self.is(Broken::RunsOnWhenCommitting) && side == Source::Committing {
            (world.source, world.over) = (Source::Running, true);
        } else if duty == SourceDuty::RunOn {
            (world.over, world.released) = (true, true);
        }
    }

    fn destination_notices(&self, world: &mut World, at: usize) {
        let connection = &mut world.connections[at];
        connection.destination_end = false;
        // A question that breaks off changes nothing.
        if connection.inquiry {
            return;
        }
        let discards = self.is(Broken::DiscardsByItself) && world.destination == Destination::Prepared;
        (world.destination, _) = if discards { world.destination.abort() } else { world.destination.fail() };
    }

    fn sends(&self, world: &mut World) -> Option<()> {
        let message = world.outbox.take()?;
        let at = world.source_talks()?;
        world.connections[at].send(Way::ToDestination, message);
        match message {
            Message::Abort => world.connections[at].source_end = false,
            Message::Commit if self.is(Broken::EndsWhenSent) => {
                (world.source, world.over) = (world.source.hear(Standing::Running).0, true);
                world.connections[at].source_end = false;
            }
            _ => {}
        }
        Some(())
    }

    /// What the one knows who has looked at the destination.
    fn known_at_source(world: &World) -> Option<Standing> {
        match (world.destination_dead, world.destination) {
            (true, _) | (_, Destination::Discarded) => Some(Standing::Discarded),
            (_, Destination::Running) => Some(Standing::Running),
            _ => None,
        }
    }

    /// Whether the one who has looked at the source may let the guest run at the destination: the source is dead, or says that
    /// it stands still and has committed.
    fn may_run_there(&self, world: &World) -> bool {
        world.source_dead
            || world.source == Source::Committing
            || self.is(Broken::PersonGuesses) && !world.runs_at_source()
    }
}

impl Model for Switchover {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.cuts, self.kills)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if !world.source_dead {
            let talks = world.source_talks().is_some();
            if world.source == Source::Running && !world.over && talks {
                actions.push(Action::Stop);
            }
            if world.outbox.is_some() && talks {
                actions.push(Action::Send);
            }
            if !world.over && matches!(world.source, Source::Running | Source::Stopped) {
                actions.push(Action::CallOff);
                let sent = world.promised && world.outbox.is_none();
                if self.is(Broken::CommitsAfterSending) && sent && world.source == Source::Stopped {
                    actions.push(Action::CommitLate);
                }
            }
            if world.source_asks() {
                let somebody = world.moved || !world.destination_dead;
                if somebody && !self.is(Broken::NeverAsks) {
                    actions.push(Action::Inquire);
                }
                if Self::known_at_source(world).is_some() {
                    actions.push(Action::DecideAtSource);
                }
            }
            if world.kills > 0 {
                actions.push(Action::KillSource);
            }
        }
        if world.destination_holds() {
            if self.may_run_there(world) {
                actions.push(Action::RunAtDestination);
            }
            if !world.source_dead && matches!(world.source, Source::Running | Source::Committing) {
                actions.push(Action::GiveUp);
            }
        }
        if !world.destination_dead && world.kills > 0 {
            actions.push(Action::KillDestination);
        }
        if self.moves && !world.moved {
            actions.push(Action::Move);
        }
        for (at, connection) in world.connections.iter().enumerate() {
            if connection.up && world.cuts > 0 {
                actions.push(Action::Cut(at));
            }
            for (way, queue) in [(Way::ToSource, &connection.back), (Way::ToDestination, &connection.there)] {
                if connection.is_over(way) {
                    actions.push(Action::Notice(at, way));
                }
                // A source whose migration is over reads no more; it only says so.
                let deaf = way == Way::ToSource && world.over;
                if queue.is_empty() || deaf || !connection.is_read(way) {
                    continue;
                }
                actions.push(Action::Deliver(at, way));
                if !connection.up {
                    actions.push(Action::Lose(at, way));
                }
                if queue[0] == Message::Prepare {
                    actions.push(Action::ArriveBroken(at));
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Stop => {
                world.source = world.source.stop();
                world.outbox = Some(Message::Prepare);
            }
            Action::Send => self.sends(&mut world)?,
            Action::CommitLate => world.source = world.source.commit(),
            Action::CallOff => Self::call_off(&mut world),
            Action::Inquire => {
                let mut connection = Connection::new(true, vec![Message::Ask]);
                if world.moved {
                    // It is the other one that answers.
                    connection.there.clear();
                    connection.destination_end = false;
                    connection.back.push(Message::Standing(Standing::Unknown));
                }
                world.connections.push(connection);
            }
            Action::Deliver(at, way) => {
                let message = world.connections[at].queue(way).remove(0);
                match way {
                    Way::ToSource => self.source_hears(&mut world, at, message),
                    Way::ToDestination => self.destination_hears(&mut world, at, message),
                }
            }
            Action::ArriveBroken(at) => {
                (world.destination, _) = world.destination.fail();
                let connection = &mut world.connections[at];
                connection.there.remove(0);
                connection.send(Way::ToSource, Message::Failed);
                connection.destination_end = false;
            }
            Action::Notice(at, Way::ToSource) => self.source_notices(&mut world, at),
            Action::Notice(at, Way::ToDestination) => self.destination_notices(&mut world, at),
            Action::Cut(at) => (world.connections[at].up, world.cuts) = (false, world.cuts - 1),
            Action::Lose(at, way) => {
                world.connections[at].queue(way).pop();
            }
            Action::KillSource => {
                (world.source_dead, world.outbox, world.kills) = (true, None, world.kills - 1);
                world.connections.iter_mut().for_each(|one| (one.up, one.source_end) = (false, false));
            }
            Action::KillDestination => {
                (world.destination_dead, world.kills) = (true, world.kills - 1);
                world.connections.iter_mut().for_each(|one| (one.up, one.destination_end) = (false, false));
            }
            Action::Move => world.moved = true,
            Action::DecideAtSource => {
                (world.source, _) = world.source.hear(Self::known_at_source(&world)?);
                world.over = true;
            }
            Action::RunAtDestination => (world.destination, _) = world.destination.commit(),
            Action::GiveUp => {
                (world.destination, _) = world.destination.abort();
                world.released = true;
            }
        }
        world.tidy();
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let [two, unsaid, promised] = PROMISES;
        vec![
            Property::always(two, |_, world: &World| {
                !(world.runs_at_source() && world.runs_at_destination())
            }),
            Property::always(unsaid, |_, world: &World| {
                world.source_dead
                    || world.destination_dead
                    || world.runs_at_source()
                    || world.runs_at_destination()
                    || matches!(world.source, Source::Stopped | Source::Committing)
                    || world.destination == Destination::Prepared
            }),
            Property::always(promised, |_, world: &World| {
                !world.promised || world.released || world.destination != Destination::Discarded
            }),
            Property::sometimes("it arrives", |_, world: &World| {
                world.source == Source::Gone && world.runs_at_destination()
            }),
            Property::sometimes("it stays", |_, world: &World| {
                world.over && world.runs_at_source() && world.destination == Destination::Discarded
            }),
            Property::sometimes("both stand still", |_, world: &World| {
                world.source_asks() && world.destination_holds()
            }),
            Property::sometimes("it is asked for and committed again", |_, world: &World| {
                world.committed_again && world.source == Source::Gone
            }),
        ]
    }
}
