//! Every model, whole and broken.

use stateright::{Checker, HasDiscoveries, Model};

use crate::{epoch, handover};

const THREADS: usize = 2;

/// What came out of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The model, and which rule it breaks.
    pub name: String,
    /// States that were looked at.
    pub states: usize,
    /// Whether it came out as it has to: a whole one keeps its promise, a broken one is found out.
    pub sound: bool,
    /// In words.
    pub found: String,
}

/// Checks the epoch protocol with so many writes to memory, and the hand-over of full rings.
#[must_use]
pub fn all(writes: u8) -> Vec<Checked> {
    let mut checked = Vec::new();
    let mut say = |name: String, states, sound, found| checked.push(Checked { name, states, sound, found });
    let epochs = epoch::Epochs { ring: 1, writes, epochs: 2, crashes: 1, broken: None };
    for ring in [1, 2] {
        let checker = epoch::Epochs { ring, ..epochs }.checker().threads(THREADS).spawn_bfs().join();
        let sound = checker.discoveries().keys().eq(["a second image is written"].iter());
        let name = format!("the epoch protocol, rings of {ring}");
        say(name, checker.unique_state_count(), sound, "every change has an owner in every state".into());
    }
    for broken in epoch::Broken::ALL {
        let model = epoch::Epochs { broken: Some(broken), ..epochs };
        // One thread, so that the history found is a shortest one, and the same each time.
        let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries().into_iter().find(|(name, _)| is_rule(name));
        let steps = found.map(|(_, path)| path.into_actions().len());
        let text =
            steps.map_or("no loss found".into(), |steps| format!("a page is lost after {steps} steps"));
        say(format!("the epoch protocol, {broken:?}"), checker.unique_state_count(), steps.is_some(), text);
    }
    let whole = handover::Handover { vcpus: 3, ring: 2, broken: None };
    let (states, stuck) = whole.waits();
    let checker = whole.checker().threads(THREADS).spawn_bfs().join();
    let sound = stuck == 0 && checker.discoveries().len() == 2;
    let found = "from every state the cut is sealed".into();
    say("stopping vCPUs whose rings are full".into(), states, sound, found);
    for broken in handover::Broken::ALL {
        let (states, stuck) = handover::Handover { broken: Some(broken), ..whole }.waits();
        let name = format!("stopping vCPUs whose rings are full, {broken:?}");
        say(name, states, stuck > 0, format!("in {stuck} states somebody waits for ever"));
    }
    checked
}

fn is_rule(name: &str) -> bool {
    matches!(name, "every change has an owner" | "a committed image is memory at its cut")
}

#[test]
fn every_model_comes_out_as_it_has_to() {
    for checked in all(3) {
        assert!(checked.sound, "{checked:?}");
    }
}
