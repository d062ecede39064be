//! The fuzz targets for a bounded time, with seeds from real machines.

use std::cell::Cell;

use ringmark_image::fuzzing::fuzz;

use super::{REAL, machine, needs, seeds, state, working_set};
use crate::HypervisorWish;
use crate::saved::MachineSaved;

/// Says which machines could not be had.
fn seeds_of(test: &str) -> [Vec<Vec<u8>>; 3] {
    if !REAL.iter().any(|real| real.hypervisor == HypervisorWish::Kvm) {
        eprintln!("SKIPPED the seeds of {test} from /dev/kvm: there is no usable one");
    }
    seeds()
}

#[test]
fn states_that_nobody_wrote() {
    fuzz(state, &seeds_of("states_that_nobody_wrote")[0], 20_000);
}

#[test]
fn needs_that_nobody_wrote() {
    fuzz(needs, &seeds_of("needs_that_nobody_wrote")[1], 20_000);
}

#[test]
fn working_sets_that_nobody_wrote() {
    fuzz(working_set, &seeds_of("working_sets_that_nobody_wrote")[2], 20_000);
}

#[test]
fn machines_that_nobody_made() {
    // Nothing changes, then single numbers.
    let mut seeds = vec![vec![0], vec![1], vec![2]];
    for at in 1..=200u8 {
        let mut seed = vec![at % 3];
        seed.resize(usize::from(at), 0);
        seed.push(at.wrapping_mul(37) | 1);
        seeds.push(seed);
    }
    let made = Cell::new(0);
    fuzz(|bytes| made.set(made.get() + usize::from(machine(bytes))), &seeds, 300);
    // Few are refused for their form: the rest is for the vCPUs and devices to bear.
    assert!(made.get() > 50, "{} machines", made.get());
}

/// The control: a state that nothing was changed in makes a machine of each real one's memory that it fits.
#[test]
fn what_was_not_changed_is_a_machine() {
    for real in REAL.iter() {
        let saved = MachineSaved::decode(&real.image.state(crate::saved::PART).unwrap()).unwrap();
        let made = crate::Machine::restore_as(
            saved,
            &real.store,
            &real.image,
            real.options(),
            Box::new(std::io::sink()),
        );
        let machine = made.unwrap();
        machine.resume().unwrap();
        machine.pause().unwrap();
    }
}
