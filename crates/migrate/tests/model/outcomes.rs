//! Where it ends.

use std::collections::{BTreeSet, HashMap};

use ringmark_migrate::handover::{Destination, Source};
use stateright::Model;

use super::switchover::{Action, Switchover};
use super::world::World;

/// One of the two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

impl Side {
    /// `world` with this side killed.
    pub(crate) fn kill(self, model: &Switchover, world: &World) -> Option<World> {
        let armed = World { kills: 1, ..world.clone() };
        let action = match self {
            Self::Source => Action::KillSource,
            Self::Destination => Action::KillDestination,
        };
        model.next_state(&armed, action)
    }
}

/// A state in which nothing happens by itself any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub(crate) at_source: bool,
    pub(crate) at_destination: bool,
    /// It stands still there, and says so.
    pub(crate) source_asks: bool,
    pub(crate) destination_holds: bool,
}

impl End {
    fn of(world: &World) -> Self {
        Self {
            at_source: world.runs_at_source(),
            at_destination: world.runs_at_destination(),
            source_asks: world.source_asks(),
            destination_holds: world.destination_holds(),
        }
    }

    /// How many guests run.
    pub(crate) fn running(self) -> u32 {
        u32::from(self.at_source) + u32::from(self.at_destination)
    }

    fn words(self) -> String {
        let mut words = Vec::new();
        for (holds, word) in [
            (self.at_source, "runs at the source"),
            (self.at_destination, "runs at the destination"),
            (self.source_asks, "the source stands still and asks"),
            (self.destination_holds, "the destination stands still and holds it"),
        ] {
            if holds {
                words.push(word);
            }
        }
        if words.is_empty() { "died with its process".into() } else { words.join(", ") }
    }
}

/// In words, each once.
pub(crate) fn words(ends: &BTreeSet<End>) -> String {
    ends.iter().map(|end| end.words()).collect::<Vec<_>>().join("; or ")
}

/// Ends of states once nothing breaks any more.
pub(crate) struct Outcomes<'a> {
    model: &'a Switchover,
    /// Whether people decide what nobody else can.
    people: bool,
    known: HashMap<World, BTreeSet<End>>,
}

impl<'a> Outcomes<'a> {
    pub(crate) fn new(model: &'a Switchover, people: bool) -> Self {
        Self { model, people, known: HashMap::new() }
    }

    /// Every end to which `world` may come. Each way there is finite: what happens by itself uses up messages and
    /// connections, of which no new ones come but by a cut.
    pub(crate) fn of(&mut self, world: &World) -> BTreeSet<End> {
        if let Some(ends) = self.known.get(world) {
            return ends.clone();
        }
        let mut actions = Vec::new();
        self.model.actions(world, &mut actions);
        actions.retain(|action| action.is_peaceful() || self.people && action.is_decision());
        let mut ends = BTreeSet::new();
        for next in actions.iter().filter_map(|action| self.model.next_state(world, *action)) {
            ends.extend(self.of(&next));
        }
        if actions.is_empty() {
            ends.insert(End::of(world));
        }
        self.known.insert(world.clone(), ends.clone());
        ends
    }

    pub(crate) fn of_all(&mut self, worlds: &[World]) -> BTreeSet<End> {
        worlds.iter().flat_map(|world| self.of(world)).collect()
    }
}

/// The states of both sides that occur together, in order.
pub(crate) fn pairs(worlds: &[World]) -> Vec<(Source, Destination)> {
    let sources = [Source::Running, Source::Stopped, Source::Committing, Source::Gone];
    let destinations =
        [Destination::Receiving, Destination::Prepared, Destination::Running, Destination::Discarded];
    let all = sources.into_iter().flat_map(|source| destinations.map(|destination| (source, destination)));
    all.filter(|pair| worlds.iter().any(|world| (world.source, world.destination) == *pair)).collect()
}
