//! The switchover in every state that it can reach: the rule of [`ringmark_migrate::handover`] between a source and a
//! destination whose connections may break at any instant, that may be killed at any instant, and that ask each other or a
//! person afterwards.
//!
//! `cargo test -p ringmark-migrate --test model -- --nocapture` prints the number of states, what becomes of the guest
//! after a kill of either side in each of them, and a history in which each broken rule goes wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod outcomes;
mod switchover;
mod world;

use stateright::{Checker, HasDiscoveries, Model, StateRecorder};

use outcomes::{Outcomes, Side};
use ringmark_migrate::handover::{Destination, Source};
use switchover::{Broken, Switchover};
use world::World;

/// What has to be possible for the model to be of any worth.
const POSSIBLE: [&str; 4] =
    ["it arrives", "it stays", "both stand still", "it is asked for and committed again"];

#[test]
fn never_two_and_never_none_unsaid() {
    let checker = Switchover::new(&[]).checker().threads(2).spawn_bfs().join();
    let discoveries = checker.discoveries();
    println!("{} states of the switchover", checker.unique_state_count());
    for (name, path) in &discoveries {
        assert!(POSSIBLE.contains(name), "{name}: {:#?}", path.clone().into_actions());
    }
    for name in POSSIBLE {
        assert!(discoveries.contains_key(name), "it never comes to that: {name}");
    }
}

/// All states of a switchover in which nobody is killed and the address stays the destination's.
fn peaceful(broken: &[Broken]) -> (Switchover, Vec<World>) {
    let model = Switchover { kills: 0, moves: false, ..Switchover::new(broken) };
    let (recorder, states) = StateRecorder::new_with_accessor();
    model.clone().checker().visitor(recorder).spawn_bfs().join();
    (model, states())
}

#[test]
fn once_links_heal_exactly_one_runs() {
    let (model, states) = peaceful(&[]);
    let mut outcomes = Outcomes::new(&model, false);
    for state in &states {
        for end in outcomes.of(state) {
            assert_eq!(end.running(), 1, "{state:#?} ends as {end:?}");
        }
    }
    println!("{} states without a kill: exactly one guest runs in the end", states.len());
}

#[test]
fn a_source_that_never_asks_stands_still_for_ever() {
    let (model, states) = peaceful(&[Broken::NeverAsks]);
    let mut outcomes = Outcomes::new(&model, false);
    let stuck = states.iter().filter(|state| outcomes.of(state).iter().any(|end| end.running() == 0));
    assert!(stuck.count() > 0, "the check would pass without any question, too");
}

#[test]
fn a_kill_in_any_state() {
    let (model, states) = peaceful(&[]);
    let (mut alone, mut decided) = (Outcomes::new(&model, false), Outcomes::new(&model, true));
    println!("| source | destination | killed | by themselves | after a person looked |");
    println!("|---|---|---|---|---|");
    for (source, destination) in outcomes::pairs(&states) {
        let here = |state: &&World| (state.source, state.destination) == (source, destination);
        for side in [Side::Source, Side::Destination] {
            let killed: Vec<World> =
                states.iter().filter(here).filter_map(|state| side.kill(&model, state)).collect();
            let by_themselves = alone.of_all(&killed);
            let at_last = decided.of_all(&killed);
            println!(
                "| {source:?} | {destination:?} | {side:?} | {} | {} |",
                outcomes::words(&by_themselves),
                outcomes::words(&at_last)
            );
            for end in by_themselves.iter().chain(&at_last) {
                assert!(end.running() <= 1, "two guests run");
            }
            match (side, source, destination) {
                // What both hold, or one side was told to run, survives the other one's death.
                (Side::Source, Source::Stopped | Source::Committing, Destination::Prepared)
                | (Side::Source, _, Destination::Running) => {
                    assert!(at_last.iter().all(|end| end.at_destination), "{at_last:?}");
                }
                (Side::Destination, Source::Running | Source::Stopped, _)
                | (Side::Destination, Source::Committing, Destination::Prepared | Destination::Discarded) => {
                    assert!(at_last.iter().all(|end| end.at_source), "{at_last:?}");
                }
                _ => {}
            }
        }
    }
}

/// A history in which a switchover with other rules breaks a promise.
fn counterexample(broken: &[Broken], promise: &'static str) {
    let first = HasDiscoveries::AnyOf([promise].into());
    let checker = Switchover::new(broken).checker().finish_when(first).spawn_bfs().join();
    let states = checker.unique_state_count();
    let path = checker.discovery(promise);
    let path = path.unwrap_or_else(|| panic!("{broken:?}: {promise:?} holds in all {states} states"));
    let actions = path.into_actions();
    println!("{broken:?}: not {promise:?} after {} steps, {states} states: {actions:?}", actions.len());
}

#[test]
fn every_broken_rule_is_found_out() {
    let [two, unsaid, promised] = switchover::PROMISES;
    counterexample(&[Broken::CommitsAfterSending], two);
    counterexample(&[Broken::RunsOnWhenCommitting], two);
    counterexample(&[Broken::DiscardsByItself, Broken::TakesUnknownForDiscarded], two);
    counterexample(&[Broken::TakesUnknownForDiscarded], two);
    counterexample(&[Broken::PersonGuesses], two);
    counterexample(&[Broken::DiscardsByItself], promised);
    counterexample(&[Broken::DiscardsByItself, Broken::EndsWhenSent], unsaid);
}
