//! What each pattern writes.

mod common;

use std::collections::BTreeSet;

use common::{Machine, config, patterns};
use proptest::prelude::*;
use ringmark_guest::{Pattern, Picker, Step};

fn picks(pattern: Pattern, pages: u64, count: usize) -> Vec<u64> {
    let mut picker = Picker::new(pattern, pages, 4, 0, 1);
    (0..count).map(|_| picker.pick().page).collect()
}

#[test]
fn sequential_writers_start_apart_and_cover_every_page() {
    let starts: Vec<u64> =
        (0..4).map(|writer| Picker::new(Pattern::Sequential, 100, 1, writer, 4).pick().page).collect();
    assert_eq!(starts, [0, 25, 50, 75]);
    assert_eq!(picks(Pattern::Sequential, 3, 7), [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn uniform_treats_pages_alike() {
    let mut counts = [0_u32; 10];
    for page in picks(Pattern::Uniform, 10, 100_000) {
        counts[usize::try_from(page).expect("small")] += 1;
    }
    assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
}

#[test]
fn zipf_follows_one_over_rank() {
    const PAGES: u64 = 1000;
    const PICKS: usize = 1_000_000;
    let mut counts = vec![0_u32; usize::try_from(PAGES).expect("small")];
    for page in picks(Pattern::Zipf, PAGES, PICKS) {
        counts[usize::try_from(page).expect("small")] += 1;
    }
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let harmonic: f64 = (1..=PAGES).map(|rank| 1.0 / rank as f64).sum();
    for rank in [1, 2, 3, 5, 8, 13, 21, 64, 100] {
        let expected = PICKS as f64 / harmonic / f64::from(rank);
        let seen = f64::from(counts[usize::try_from(rank - 1).expect("small")]);
        assert!((seen / expected - 1.0).abs() < 0.08, "rank {rank}: {seen} of {expected}");
    }
    assert!(counts.iter().all(|&count| count > 0), "every page is written at last");
}

#[test]
fn bursts_are_neighbours_with_pauses_between() {
    let mut machine = Machine::new(config(1, 1000, Pattern::Bursty { burst: 4, idle: 3 }, 6));
    for _ in 0..50 {
        let burst: Vec<u64> = (0..4)
            .map(|_| match machine.step(0).expect("no fuse") {
                Step::Wrote(page) => page,
                other => panic!("{other:?} in a burst"),
            })
            .collect();
        assert!(burst.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 1000), "{burst:?}");
        let pause: Vec<Step> = (0..3).map(|_| machine.step(0).expect("no fuse")).collect();
        assert_eq!(pause, [Step::Idle; 3]);
    }
}

#[test]
fn rewriting_changes_no_content() {
    let config = config(2, 10, Pattern::Rewrite, 6);
    let mut machine = Machine::new(config);
    machine.run(10);
    let hot: Vec<_> = (0..10).map(|page| machine.memory.page(config.gfn(page))).collect();
    ringmark_guest::publish_device(&mut machine.memory, &config, 5).expect("no fuse");
    machine.run(25);
    assert!(
        (0..10)
            .all(|page| machine.memory.page(config.gfn(page)) == hot[usize::try_from(page).expect("small")])
    );
    assert_eq!(machine.programs[0].written(), 35);
}

#[test]
fn a_pace_pauses_after_every_write() {
    let mut config = config(1, 10, Pattern::Sequential, 6);
    config.pace = 2;
    let mut machine = Machine::new(config);
    let steps: Vec<Step> = (0..6).map(|_| machine.step(0).expect("no fuse")).collect();
    assert_eq!(steps, [Step::Wrote(0), Step::Idle, Step::Idle, Step::Wrote(1), Step::Idle, Step::Idle]);
}

proptest! {
    #[test]
    fn pages_are_in_the_region_and_follow_from_the_seed(
        pattern in patterns(), pages in 1..5000_u64, seed: u64, writer in 0..8_u64,
    ) {
        let mut picker = Picker::new(pattern, pages, seed, writer, 8);
        let mut same = picker;
        for round in 0..200 {
            let pick = picker.pick();
            prop_assert!(pick.page < pages);
            prop_assert_eq!(pick, same.pick());
            if round % 50 == 0 {
                same = Picker::restore(pattern, pages, same.to_words()).expect("its own words");
            }
        }
    }

    #[test]
    fn zipf_scatters_ranks_over_different_pages(pages in 1..300_u64) {
        let seen: BTreeSet<u64> = picks(Pattern::Zipf, pages, 10_000).into_iter().collect();
        prop_assert!(seen.len() as u64 > pages * 9 / 10, "{} of {pages}", seen.len());
    }

    #[test]
    fn names_read_back(pattern in patterns()) {
        prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
        prop_assert_eq!(Pattern::from_words(pattern.to_words()), Some(pattern));
    }
}

#[test]
fn other_names_are_refused() {
    for text in ["", "random", "bursty:", "bursty:0:1", "bursty:1", "bursty:1:x", "zipf:1", "Sequential"] {
        assert!(text.parse::<Pattern>().is_err(), "{text}");
    }
}
