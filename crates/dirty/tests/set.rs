//! `DirtySet` against a `BTreeSet`: every operation, its answer, and what the set holds afterwards.

#![allow(
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "small numbers; a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;
use ringmark_dirty::DirtySet;

#[derive(Clone, Debug)]
enum Op {
    Insert(u64),
    Remove(u64),
    InsertRange(Range<u64>),
    InsertWords(u64, Vec<u64>),
    Union(Vec<Range<u64>>),
    Subtract(Vec<Range<u64>>),
    Intersect(Vec<Range<u64>>),
    Take,
    Clear,
}

/// Pages of a slot, often close to a border of one of the levels.
fn page(npages: u64) -> impl Strategy<Value = u64> {
    let border = (0u32..40, -2i64..3, any::<u16>())
        .prop_map(move |(shift, step, times)| (u64::from(times) << shift).wrapping_add_signed(step) % npages);
    prop_oneof![0..npages, 0..npages.min(200), border]
}

fn range(npages: u64) -> impl Strategy<Value = Range<u64>> {
    (page(npages), prop_oneof![0u64..4, 0u64..200, 4000u64..9000])
        .prop_map(move |(start, len)| start..(start + len).min(npages))
}

fn ranges(npages: u64) -> impl Strategy<Value = Vec<Range<u64>>> {
    prop::collection::vec(range(npages), 0..6)
}

fn op(npages: u64) -> impl Strategy<Value = Op> {
    let word = prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), (0u32..64).prop_map(|b| 1 << b)];
    prop_oneof![
        8 => page(npages).prop_map(Op::Insert),
        3 => page(npages).prop_map(Op::Remove),
        4 => range(npages).prop_map(Op::InsertRange),
        3 => (page(npages), prop::collection::vec(word, 0..70)).prop_map(|(p, w)| Op::InsertWords(p & !63, w)),
        2 => ranges(npages).prop_map(Op::Union),
        2 => ranges(npages).prop_map(Op::Subtract),
        1 => ranges(npages).prop_map(Op::Intersect),
        1 => Just(Op::Take),
        1 => Just(Op::Clear),
    ]
}

fn both(npages: u64, ranges: &[Range<u64>]) -> (DirtySet, BTreeSet<u64>) {
    let mut set = DirtySet::new(npages);
    for range in ranges {
        set.insert_range(range.clone());
    }
    (set, ranges.iter().cloned().flatten().collect())
}

/// Does `op` to the set and to its model; their answers, to be compared.
fn apply(set: &mut DirtySet, model: &mut BTreeSet<u64>, op: Op) -> (u64, u64) {
    let npages = set.npages();
    let before = model.len() as u64;
    let answer = match op {
        Op::Insert(page) => {
            model.insert(page);
            u64::from(set.insert(page))
        }
        Op::Remove(page) => {
            model.remove(&page);
            u64::from(set.remove(page))
        }
        Op::InsertRange(range) => {
            model.extend(range.clone());
            set.insert_range(range)
        }
        Op::InsertWords(first, words) => {
            let bits = (0..words.len() as u64 * 64).filter(|b| words[*b as usize / 64] >> (b % 64) & 1 != 0);
            model.extend(bits.map(|b| first + b).filter(|p| *p < npages));
            set.insert_words(first, &words)
        }
        Op::Union(ranges) => {
            let (other, other_model) = both(npages, &ranges);
            model.extend(other_model);
            set.union_with(&other)
        }
        Op::Subtract(ranges) => {
            let (other, other_model) = both(npages, &ranges);
            model.retain(|p| !other_model.contains(p));
            set.subtract(&other)
        }
        Op::Intersect(ranges) => {
            let (other, other_model) = both(npages, &ranges);
            model.retain(|p| other_model.contains(p));
            set.intersect(&other)
        }
        Op::Take => {
            let taken = set.take();
            assert!(taken.iter().eq(std::mem::take(model)));
            taken.len()
        }
        Op::Clear => {
            set.clear();
            model.clear();
            before
        }
    };
    (answer, before.abs_diff(model.len() as u64))
}

fn naive_runs(model: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &page in model {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

fn compare(set: &DirtySet, model: &BTreeSet<u64>) {
    assert_eq!(set.len(), model.len() as u64);
    assert_eq!(set.is_empty(), model.is_empty());
    assert!(set.iter().eq(model.iter().copied()), "pages differ");
    assert_eq!(set.iter().size_hint(), (model.len(), Some(model.len())));
    assert_eq!(set.runs().collect::<Vec<_>>(), naive_runs(model));
    for page in model.iter().flat_map(|p| [p.saturating_sub(1), *p, p + 1]).take(500) {
        assert_eq!(set.contains(page), model.contains(&page), "page {page}");
    }
    let mut rebuilt = DirtySet::new(set.npages());
    for &page in model {
        rebuilt.insert(page);
    }
    assert_eq!(&rebuilt, set, "equal pages must make equal sets, however they came about");
}

fn npages() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..300, Just(4096), 4000u64..100_000, Just(1 << 28), Just((1 << 31) - 1), Just(1 << 36)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_a_btreeset_does(
        (npages, ops) in npages().prop_flat_map(|n| (Just(n), prop::collection::vec(op(n), 1..40)))
    ) {
        let (mut set, mut model) = (DirtySet::new(npages), BTreeSet::new());
        for op in ops {
            let name = format!("{op:?}");
            let (answer, expected) = apply(&mut set, &mut model, op);
            prop_assert_eq!(answer, expected, "{}", name);
        }
        compare(&set, &model);
    }

    #[test]
    fn agrees_after_every_step(
        (npages, ops) in npages().prop_flat_map(|n| (Just(n), prop::collection::vec(op(n), 1..6)))
    ) {
        let (mut set, mut model) = (DirtySet::new(npages), BTreeSet::new());
        for op in ops {
            apply(&mut set, &mut model, op);
            compare(&set, &model);
        }
    }
}

/// The oracle has to notice: a set that lost one page must not pass for its model.
#[test]
#[should_panic(expected = "assertion")]
fn the_comparison_notices_a_lost_page() {
    let (mut set, model) = both(1 << 28, &[10..20, 1 << 20..(1 << 20) + 5]);
    set.remove((1 << 20) + 2);
    compare(&set, &model);
}

#[test]
fn the_last_page_of_the_largest_set() {
    let mut set = DirtySet::new(DirtySet::MAX_PAGES);
    assert!(set.insert(DirtySet::MAX_PAGES - 1));
    assert!(set.contains(DirtySet::MAX_PAGES - 1));
    assert!(!set.contains(DirtySet::MAX_PAGES));
    assert_eq!(set.runs().collect::<Vec<_>>(), [DirtySet::MAX_PAGES - 1..DirtySet::MAX_PAGES]);
}

#[test]
fn whole_slots_fill_and_empty() {
    let npages = (1 << 22) + 77;
    let mut set = DirtySet::new(npages);
    assert_eq!(set.insert_range(0..npages), npages);
    assert_eq!(set.runs().collect::<Vec<_>>(), [0..npages]);
    let all = set.clone();
    assert_eq!(set.subtract(&all), npages);
    assert_eq!(set, DirtySet::new(npages));
}

#[test]
fn bits_past_the_end_are_passed_over() {
    let mut set = DirtySet::new(70);
    assert_eq!(set.insert_words(0, &[u64::MAX; 4]), 70);
    assert_eq!(set.insert_words(128, &[u64::MAX]), 0);
    assert_eq!(set.len(), 70);
}

#[test]
fn an_empty_range_adds_nothing() {
    let mut set = DirtySet::new(100);
    assert_eq!(set.insert_range(5..5), 0);
    #[allow(clippy::reversed_empty_ranges, reason = "the case in question")]
    let backwards = 9..5;
    assert_eq!(set.insert_range(backwards), 0);
    assert_eq!(DirtySet::new(0).insert_range(0..0), 0);
}

#[test]
#[should_panic(expected = "page 100 of a slot of 100 pages")]
fn a_page_past_the_end_is_refused() {
    DirtySet::new(100).insert(100);
}

#[test]
#[should_panic(expected = "sets of slots of 100 and 101 pages")]
fn sets_of_different_slots_do_not_mix() {
    DirtySet::new(100).union_with(&DirtySet::new(101));
}
