//! Negative controls: a page that falls back to an earlier state is named, from inside and from outside.

mod common;

use common::{Machine, PAGE, config, patterns};
use proptest::prelude::*;
use ringmark_guest::{Config, DamageKind, Pattern, Report, Status, publish_device};

/// Every kind of page that the programs or the monitor's device write.
fn lost_as(config: &Config, writer: u64, kind: u8, page: u64) -> (u64, &'static [DamageKind]) {
    let entry = config.ledger_bytes() / config.writers * writer + config.ledger + PAGE + page * 8;
    let (gpa, kinds): (_, &[DamageKind]) = match kind {
        0 => (config.hot + page * PAGE, &[DamageKind::PageBehind]),
        1 => (entry, &[DamageKind::LedgerBehind]),
        2 => (config.status_gpa(writer), &[DamageKind::StatusBehind]),
        3 => (config.ledger + config.ledger_bytes() / config.writers * writer, &[DamageKind::TallyBehind]),
        _ => (config.device_gpa(), &[DamageKind::DeviceBehind]),
    };
    (gpa / PAGE, kinds)
}

fn names(report: &Report, gfn: u64, kinds: &[DamageKind]) -> bool {
    report.damages().any(|damage| damage.gfn == gfn && kinds.contains(&damage.kind))
}

/// Whether two states of a page differ in more than a heartbeat, a state or a check's result.
fn differs(config: &Config, gfn: u64, before: &[u64], after: &[u64]) -> bool {
    let is_status = (0..config.writers).any(|writer| config.status_gpa(writer) / PAGE == gfn);
    if is_status { before[8..11] != after[8..11] } else { before != after }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_single_page_that_falls_back_is_named(
        writers in 1..=4_u64,
        pages in 1..200_u64,
        pattern in patterns(),
        seed: u64,
        before in 0..60_u64,
        between in 1..60_u64,
        kind in 0..5_u8,
        choice: u64,
    ) {
        let config = config(writers, pages, pattern, seed);
        let mut machine = Machine::new(config);
        machine.run(before);
        let (gfn, kinds) = lost_as(&config, choice % writers, kind, (choice >> 8) % pages);
        let older = machine.memory.page(gfn);
        publish_device(&mut machine.memory, &config, 1).expect("no fuse");
        machine.run(between);
        prop_assert!(machine.inspect().is_ok() && machine.check().is_ok());

        let changed = differs(&config, gfn, &older, &machine.memory.page(gfn));
        machine.memory.put_page(gfn, &older);
        let (outside, inside) = (machine.inspect(), machine.check());
        if changed {
            prop_assert!(names(&outside, gfn, kinds), "outside: {:?}", outside);
            prop_assert!(names(&inside, gfn, kinds), "inside: {:?}", inside);
        } else {
            prop_assert!(outside.is_ok() && inside.is_ok(), "outside {}, inside {}", outside, inside);
        }
    }

    /// The same with the programs cut in the midst of their writes: whatever page is lost beyond the write in flight.
    #[test]
    fn a_lost_page_is_named_also_in_the_midst_of_a_write(
        seed: u64,
        accesses in 0..40_u64,
        kind in 0..5_u8,
        page in 0..8_u64,
    ) {
        let config = config(1, 8, Pattern::Sequential, seed);
        let mut machine = Machine::new(config);
        machine.run(5);
        let (gfn, kinds) = lost_as(&config, 0, kind, page);
        let older = machine.memory.page(gfn);
        publish_device(&mut machine.memory, &config, 1).expect("no fuse");
        machine.run(20);
        machine.memory.fuse = Some(accesses);
        while machine.step(0).is_ok() {}
        machine.memory.fuse = None;

        let status = Status::load(&mut machine.memory, &config, 0).expect("no fuse");
        let in_flight = status.in_flight.is_some_and(|write| config.gfn(write.page) == gfn);
        machine.memory.put_page(gfn, &older);
        let outside = machine.inspect();
        prop_assert!(
            names(&outside, gfn, kinds) || in_flight && !outside.is_ok(),
            "in flight {:?}, {:?}", status.in_flight, outside
        );
    }

    /// Memory may hold anything; a report is a report.
    #[test]
    fn arbitrary_memory_is_inspected_without_a_panic(
        words in prop::collection::vec((0..4096_usize, any::<u64>()), 0..200),
        small in prop::collection::vec((0..4096_usize, 0..20_u64), 0..200),
    ) {
        let mut machine = Machine::new(config(2, 16, Pattern::Uniform, 1));
        machine.run(10);
        let control = usize::try_from(machine.config.control_gpa() / 8).expect("small");
        let length = machine.memory.words.len();
        for (at, word) in words.into_iter().chain(small) {
            if at % length != control {
                machine.memory.words[at % length] = word;
            }
        }
        let _ = (machine.inspect(), machine.check());
        machine.run(20);
        let _ = (machine.inspect(), machine.check());
    }
}

fn after(pages: u64) -> (Machine, Config) {
    let config = config(2, 100, Pattern::Uniform, 8);
    let mut machine = Machine::new(config);
    machine.run(pages);
    (machine, config)
}

#[test]
fn a_hot_page_lost_together_with_its_ledger_does_not_add_up() {
    let (mut machine, config) = after(150);
    let older = machine.clone();
    machine.run(150);
    for gfn in config.ledger / PAGE..(config.hot + config.hot_bytes()) / PAGE {
        let tally = lost_as(&config, 0, 3, 0).0 == gfn || lost_as(&config, 1, 3, 0).0 == gfn;
        if !tally {
            machine.memory.put_page(gfn, &older.memory.page(gfn));
        }
    }
    let (outside, inside) = (machine.inspect(), machine.check());
    for report in [outside, inside] {
        let kinds: Vec<_> = report.damages().map(|damage| damage.kind).collect();
        assert!(kinds.contains(&DamageKind::LedgerTotal), "{kinds:?}");
    }
}

#[test]
fn a_machine_that_falls_back_as_a_whole_agrees_with_itself() {
    let (mut machine, _) = after(150);
    let mut older = machine.clone();
    machine.run(150);
    older.save_and_restore();
    assert!(older.inspect().is_ok() && older.check().is_ok());
    older.run(150);
    assert!(older.check().is_ok());
}

#[test]
fn a_loss_is_remembered_after_the_page_is_written_again() {
    let config = config(1, 10, Pattern::Sequential, 8);
    let mut machine = Machine::new(config);
    machine.run(25);
    let gfn = config.gfn(7);
    let older = machine.memory.page(gfn);
    machine.run(10);
    machine.memory.put_page(gfn, &older);
    machine.run(10);
    assert!(machine.inspect().is_ok(), "the page was written again");
    machine.save_and_restore();
    let report = machine.check();
    assert!(names(&report, gfn, &[DamageKind::PageBehind]), "{report}");
}

#[test]
fn a_device_record_that_was_lost_is_noticed_by_the_next_write() {
    let (mut machine, config) = after(10);
    let gfn = config.device_gpa() / PAGE;
    let older = machine.memory.page(gfn);
    publish_device(&mut machine.memory, &config, 1).expect("no fuse");
    machine.run(10);
    machine.memory.put_page(gfn, &older);
    machine.run(10);
    publish_device(&mut machine.memory, &config, 2).expect("no fuse");
    machine.run(10);
    assert!(names(&machine.check(), gfn, &[DamageKind::DeviceBehind]));
}

#[test]
fn a_program_older_than_memory_is_noticed() {
    let (mut machine, config) = after(10);
    let older = machine.programs.clone();
    machine.run(10);
    machine.programs = older;
    let report = machine.check();
    assert!(names(&report, config.status_gpa(0) / PAGE, &[DamageKind::ProgramBehind]), "{report}");
}

/// The word at `offset` in the lane of writer 1 in `page`.
fn lane_word(config: &Config, page: u64, offset: u64) -> usize {
    usize::try_from((config.hot + page * PAGE + 64 + offset) / 8).expect("small")
}

#[test]
fn a_certificate_that_is_not_the_pages_own_is_named_for_what_it_is() {
    let (machine, config) = after(1000);
    let flip = |offset: u64| {
        let mut machine = machine.clone();
        machine.memory.words[lane_word(&config, 33, offset)] ^= 1 << 40;
        machine
    };
    for offset in (0..56).step_by(8) {
        let mut damaged = flip(offset);
        let report = damaged.inspect();
        assert!(names(&report, config.gfn(33), &[DamageKind::PageCorrupt]), "{offset:#x}: {report}");
        assert_eq!(report.damaged, 1);
    }

    let mut misplaced = machine.clone();
    misplaced.memory.put_page(config.gfn(33), &machine.memory.page(config.gfn(34)));
    assert!(names(&misplaced.inspect(), config.gfn(33), &[DamageKind::PageMisplaced]));

    let mut other = Machine::new(Config { seed: 99, ..config });
    other.run(1000);
    let mut foreign = machine.clone();
    foreign.memory.put_page(config.gfn(33), &other.memory.page(config.gfn(33)));
    assert!(names(&foreign.inspect(), config.gfn(33), &[DamageKind::PageForeign]));

    let mut absent = machine.clone();
    absent.memory.put_page(config.gfn(33), &[0; 64]);
    let report = absent.inspect();
    assert_eq!(report.damaged, 2, "one lane for each writer");
    assert!(report.damages().all(|damage| damage.seen == 0 && damage.expected > 0));
    assert!(report.to_string().starts_with("LOST 2, first: gfn "), "{report}");
}

#[test]
fn more_damage_than_is_named_is_counted() {
    let (mut machine, config) = after(1000);
    for page in 0..config.pages {
        machine.memory.put_page(config.gfn(page), &[0; 64]);
    }
    let report = machine.inspect();
    assert_eq!((report.damaged, report.damages().count()), (200, ringmark_guest::NAMED));
}
