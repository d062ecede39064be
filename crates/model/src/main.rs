//! Checks every model, and prints how many states it has.

use std::process::ExitCode;

/// Writes to memory in a history of the epoch protocol.
const WRITES: u8 = 4;

fn main() -> ExitCode {
    let checked = ringmark_model::checks::all(WRITES);
    for one in &checked {
        println!(
            "MODEL {} | {} | {}{}",
            one.name,
            one.states,
            if one.sound { "" } else { "WRONG: " },
            one.found
        );
    }
    if checked.iter().all(|one| one.sound) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
