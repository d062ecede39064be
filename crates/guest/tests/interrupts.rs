//! The driver of the interrupt controller against a naive one, which can be made to lose things.

mod controller;

use controller::{Controller, PAGE, layout};
use proptest::prelude::*;
use ringmark_guest::{
    Config, Damage, DamageKind, Driver, Interrupts, InterruptsConfigError, InterruptsError,
};

fn check(driver: &mut Driver, controller: &mut Controller) -> Vec<Damage> {
    let mut found = Vec::new();
    let Ok(()) = driver.check(controller, |damage| found.push(damage));
    found
}

fn started(config: Config, interrupts: Interrupts) -> (Driver, Controller) {
    let (mut driver, mut controller) = (Driver::new(config, interrupts), Controller::new(config, interrupts));
    let Ok(()) = driver.start(&mut controller);
    assert_eq!(controller.mapped() as u64, interrupts.lines());
    (driver, controller)
}

/// Turns, after some of which vCPUs take what is pending.
fn turn(driver: &mut Driver, controller: &mut Controller, turns: &[bool]) {
    for &take in turns {
        let Ok(()) = driver.turn(controller);
        if take {
            controller.take_all();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_found_where_nothing_is_lost(
        writers in 1..=4_u64,
        count in 1..=4_u64,
        devices in 1..40_u64,
        events in 1..=4_u64,
        seed: u64,
        turns in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let (config, interrupts) = layout(writers, [count, devices, events], seed);
        let (mut driver, mut controller) = started(config, interrupts);
        turn(&mut driver, &mut controller, &turns);
        prop_assert!(controller.inspect().is_ok(), "{}", controller.inspect());
        prop_assert_eq!(check(&mut driver, &mut controller), []);
        let Ok(tally) = interrupts.tally(&mut controller, &config);
        prop_assert_eq!(tally.raised, tally.taken);
        prop_assert!(tally.taken >= interrupts.lines());
    }

    /// What an image does that lacks a page of translation tables.
    #[test]
    fn an_entry_that_falls_back_is_named(
        writers in 1..=4_u64,
        seed: u64,
        before in 0..20_usize,
        between in 1..40_usize,
        choice: prop::sample::Index,
        never: bool,
    ) {
        let (config, interrupts) = layout(writers, [2, 8, 2], seed);
        let (mut driver, mut controller) = started(config, interrupts);
        turn(&mut driver, &mut controller, &vec![true; before]);
        let older = controller.mappings();
        turn(&mut driver, &mut controller, &vec![true; between]);
        let newer = controller.mappings();
        let event = *choice.get(&newer.keys().copied().collect::<Vec<_>>());
        let entry = if never { None } else { older.get(&event).copied() };
        controller.set_mapping(event, entry);
        let found = check(&mut driver, &mut controller);
        if entry == newer.get(&event).copied() {
            prop_assert_eq!(found, []);
        } else {
            let gfn = controller.entry(event) / PAGE;
            prop_assert!(
                found.iter().any(|damage| damage.kind == DamageKind::InterruptLost && damage.gfn == gfn),
                "{:?} instead of {:#x}", found, gfn
            );
        }
        // It was written off: what is put right is right from then on.
        controller.set_mapping(event, newer.get(&event).copied());
        prop_assert_eq!(check(&mut driver, &mut controller), []);
    }

    #[test]
    fn a_pending_interrupt_that_is_dropped_is_lost_and_one_more_is_unasked(seed: u64, choice: prop::sample::Index) {
        let (config, interrupts) = layout(2, [2, 8, 2], seed);
        let (mut driver, mut controller) = started(config, interrupts);
        let Ok(()) = driver.turn(&mut controller);
        let &pending = choice.get(&controller.pending.iter().copied().collect::<Vec<_>>());

        let mut without = controller.clone();
        without.pending.remove(&pending);
        let kinds: Vec<_> = check(&mut driver.clone(), &mut without).iter().map(|damage| damage.kind).collect();
        prop_assert_eq!(kinds, [DamageKind::InterruptLost]);
        prop_assert!(controller.inspect().is_ok(), "what is on its way is no damage");

        controller.take_all();
        controller.pending.insert(pending);
        controller.take_all();
        prop_assert_eq!(controller.inspect().damaged, 1);
        let kinds: Vec<_> = check(&mut driver, &mut controller).iter().map(|damage| damage.kind).collect();
        prop_assert_eq!(kinds, [DamageKind::InterruptRepeated]);
    }

    #[test]
    fn a_published_controller_reads_back_and_a_damaged_one_is_refused(word in 0..9_u64, bit in 0..64_u32) {
        let (config, interrupts) = layout(2, [2, 8, 2], 1);
        let mut memory = Controller::new(config, interrupts);
        prop_assert_eq!(Interrupts::load(&mut memory, &config), Ok(Some(interrupts)));
        let damaged = memory.words.entry(config.mailbox + 0x100 + word * 8).or_default();
        *damaged ^= 1 << bit;
        let expected = if word == 0 { InterruptsError::Magic(*damaged) } else { InterruptsError::Checksum };
        prop_assert_eq!(Interrupts::load(&mut memory, &config), Err(expected));
        memory.words.insert(config.mailbox + 0x100, 0);
        prop_assert_eq!(Interrupts::load(&mut memory, &config), Ok(None));
    }
}

#[test]
fn a_service_that_does_nothing_any_more_loses_everything_and_holds_nobody_up() {
    let (config, interrupts) = layout(2, [2, 8, 2], 3);
    let (mut driver, mut controller) = started(config, interrupts);
    controller.stop_translator(1);
    let found = check(&mut driver, &mut controller);
    assert_eq!(found.len() as u64, interrupts.lines() / 2);
    assert!(found.iter().all(|damage| damage.kind == DamageKind::InterruptLost));
    turn(&mut driver, &mut controller, &[true; 8]);
}

/// Its page comes from far away, perhaps; it shows no sign of life.
#[test]
fn a_vcpu_that_stands_still_has_lost_nothing() {
    let (config, interrupts) = layout(2, [2, 8, 2], 3);
    let (mut driver, mut controller) = started(config, interrupts);
    let Ok(()) = driver.turn(&mut controller);
    controller.standing = 100;
    assert_eq!(check(&mut driver, &mut controller), []);
}

#[test]
fn an_interrupt_that_is_none_of_the_programs_is_found() {
    let (config, interrupts) = layout(2, [1, 1, 1], 3);
    let (mut driver, mut controller) = started(config, interrupts);
    controller.pending.insert((1, 27));
    let found = check(&mut driver, &mut controller);
    assert!(matches!(found[..], [Damage { kind: DamageKind::InterruptRepeated, writer: 1, seen: 1, .. }]));
    assert_eq!(controller.inspect().damaged, 1);
}

#[test]
fn impossible_controllers_are_refused() {
    let (config, sound) = layout(2, [2, 8, 2], 1);
    assert_eq!(sound.validate(&config), Ok(()));
    for wrong in [
        Interrupts { count: 0, ..sound },
        Interrupts { count: 5, ..sound },
        Interrupts { devices: Interrupts::MAX_DEVICES + 1, ..sound },
        Interrupts { events: 33, ..sound },
        Interrupts { devices: 1024, events: 32, ..sound },
        Interrupts { events: u64::MAX, devices: u64::MAX, ..sound },
    ] {
        assert!(matches!(wrong.validate(&config), Err(InterruptsConfigError::Number { .. })), "{wrong:?}");
    }
    for wrong in [
        Interrupts { area: sound.area + 4096, ..sound },
        Interrupts { distributor: 1 << 63, ..sound },
        Interrupts { translators: 8, ..sound },
    ] {
        assert!(matches!(wrong.validate(&config), Err(InterruptsConfigError::Place(_))), "{wrong:?}");
    }
    let overlapping = Config { hot: sound.area + 0x1_0000, ..config };
    let error = sound.validate(&overlapping).expect_err("the tables lie in the hot region");
    assert_eq!(error, InterruptsConfigError::Overlap { area: sound.area, region: overlapping.hot });
    assert!(error.to_string().contains("overlap"));
}
