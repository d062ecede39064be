//! Programs that are stopped between any two accesses leave a memory that agrees with itself, and go on from there.

mod common;

use common::{Cut, Machine, config, patterns};
use proptest::prelude::*;
use ringmark_guest::{Pattern, Status, Step, publish_device};

/// Every access of the first writes, one after another: first certificates and later ones, each pattern.
#[test]
fn every_single_access_is_a_sound_place_to_stop() {
    for pattern in Pattern::ALL {
        let config = config(1, 3, pattern, 5);
        let mut machine = Machine::new(config);
        let mut in_flight = 0;
        for accesses in 0..400 {
            let mut machine = machine.clone();
            machine.memory.fuse = Some(accesses);
            while machine.step(0).is_ok() {}
            let report = machine.inspect();
            assert!(report.is_ok(), "{pattern}, cut after {accesses} accesses: {report}");
            let status = Status::load(&mut machine.memory, &config, 0).expect("no fuse");
            in_flight += u64::from(status.in_flight.is_some());
        }
        assert!(in_flight > 100, "{pattern}: only {in_flight} cuts hit a page write");
        machine.run(40);
        assert!(machine.check().is_ok());
    }
}

#[test]
fn a_program_saved_in_the_midst_of_a_write_does_what_it_would_have_done() {
    for pattern in Pattern::ALL {
        let mut machine = Machine::new(config(1, 5, pattern, 9));
        machine.run(20);
        for accesses in 0..60 {
            let mut left = machine.clone();
            left.memory.fuse = Some(accesses);
            while left.step(0) != Err(Cut) {}
            left.memory.fuse = None;
            let mut restored = left.clone();
            restored.save_and_restore();
            left.run(20);
            restored.run(20);
            assert_eq!(left.memory.words, restored.memory.words, "{pattern}, cut after {accesses}");
            assert!(restored.check().is_ok());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Several programs interleaved by chance, cut by chance, sometimes saved and restored at the cut, with device
    /// records in between.
    #[test]
    fn wherever_programs_are_cut_memory_agrees_with_itself(
        writers in 1..=4_u64,
        pages in 1..20_u64,
        pattern in patterns(),
        pace in 0..2_u64,
        seed: u64,
        cuts in prop::collection::vec((0..300_u64, prop::collection::vec(0..4_u64, 1..80), 0..4_u8), 1..6),
    ) {
        let mut config = config(writers, pages, pattern, seed);
        config.pace = pace;
        let mut machine = Machine::new(config);
        for (accesses, order, what) in cuts {
            if what & 1 != 0 {
                publish_device(&mut machine.memory, &config, accesses).expect("no fuse");
            }
            machine.memory.fuse = Some(accesses);
            for writer in order {
                // A program whose access failed is stopped; what the others do then fails as well.
                let _ = machine.step(writer);
            }
            let report = machine.inspect();
            prop_assert!(report.is_ok(), "{}", report);
            if what & 2 != 0 {
                machine.save_and_restore();
            }
        }
        machine.settle();
        let inside = machine.check();
        prop_assert!(inside.is_ok(), "{}", inside);
        prop_assert_eq!(machine.inspect(), inside);
        machine.run(10);
        prop_assert!(machine.check().is_ok());
    }

    /// A check is cut and resumed like everything else.
    #[test]
    fn a_check_goes_on_where_it_was_cut(accesses in prop::collection::vec(0..400_u64, 0..8), restore: bool) {
        let mut machine = Machine::new(config(1, 200, Pattern::Uniform, 3));
        machine.run(300);
        machine.control(ringmark_guest::Control::check(77));
        for fuse in accesses {
            machine.memory.fuse = Some(fuse);
            while machine.step(0).is_ok_and(|step| step != Step::Holding) {}
            if restore {
                machine.save_and_restore();
            }
        }
        machine.memory.fuse = None;
        while machine.step(0) != Ok(Step::Holding) {}
        let result = ringmark_guest::check_result(&mut machine.memory, &machine.config, 77);
        let report = result.expect("no fuse").expect("the check is done");
        prop_assert!(report.is_ok());
        prop_assert_eq!(report.pages, 200);
        let outside = machine.inspect();
        prop_assert_eq!(report.lanes, outside.lanes);
    }
}
