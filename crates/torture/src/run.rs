//! A run: one iteration after another.

use std::time::Instant;

use fastrand::Rng;

use crate::failure::Failure;
use crate::report::Report;
use crate::tally::Tally;
use crate::{Options, machines, tracking};

/// Iterations of which one is a machine's.
const MACHINE_EVERY: u64 = 8;

/// Tortures until the time is over, or something goes wrong. `progress` hears after every iteration how it stands.
///
/// # Errors
/// The first page that was lost, and the first error that no injected fault explains.
pub fn run(options: &Options, progress: &mut dyn FnMut(&Report)) -> Result<Report, Box<Failure>> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    let report = |iterations, tally: &Tally| Report {
        seed: options.seed,
        hypervisor: options.hypervisor,
        minutes: options.time.as_secs_f64() / 60.0,
        iterations,
        pages_verified: tally.pages,
        faults: tally.faults.clone(),
        escapes: 0,
        elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let mut done = 0;
    while done == 0 || begun.elapsed() < options.time {
        let iteration = options.iteration.unwrap_or(done);
        let mut rng = rng_of(options.seed, iteration);
        let mut step = 0;
        let ended = if iteration % MACHINE_EVERY == MACHINE_EVERY - 1 {
            machines::life(options.hypervisor, &mut rng, &mut tally, &mut step)
        } else {
            tracking::life(options.hypervisor, &mut rng, &mut tally, &mut step)
        };
        ended.map_err(|trouble| Failure::of(options, iteration, step, trouble))?;
        done += 1;
        progress(&report(done, &tally));
    }
    Ok(report(done, &tally))
}

/// The random numbers of one iteration: those of two iterations, or of one in two runs, have nothing in common.
fn rng_of(seed: u64, iteration: u64) -> Rng {
    let mut seeds = Rng::with_seed(seed);
    Rng::with_seed(seeds.u64(..) ^ iteration.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
