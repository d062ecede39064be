//! What is advised follows what was measured, and does not waver.

use proptest::prelude::*;

use super::*;

const METHOD: Method = Method::RingWithBitmap { entries: 65536 };
const PAGES: u64 = 131_072;

/// An epoch of 512 MiB of memory at one microsecond a page.
fn epoch(ring: u64, bitmap: u64) -> EpochCost {
    let last_round = bitmap + ring / 20;
    EpochCost {
        by_source: BySource { ring, bitmap, ..BySource::default() },
        running_bitmap: Some((bitmap, Duration::from_micros(20))),
        memory_pages: PAGES,
        vcpus: 1,
        rounds: 3,
        copied: (ring + last_round, Duration::from_micros(ring + last_round)),
        last_round,
        pause: Duration::from_micros(200 + last_round),
    }
}

fn after(epochs: &[EpochCost]) -> Vec<Advice> {
    let mut advisor = Advisor::new(METHOD);
    epochs.iter().fold(Vec::new(), |_, epoch| advisor.observe(epoch))
}

#[test]
fn a_large_backup_bitmap_calls_for_stand_alone_ones() {
    let [advice] = after(&[epoch(10_000, 5_000); 2])[..] else { panic!("one advice") };
    let Advice::StandaloneBitmaps { share, now, instead } = advice else { panic!("{advice}") };
    assert!((share - 1.0 / 3.0).abs() < 1e-9);
    assert_eq!(now, Duration::from_micros(200 + 5_000 + 500));
    // Nineteen in twenty of the bitmap's pages would have been copied before.
    assert_eq!(instead.as_micros(), 200 + 500 + 250);
    assert!(advice.to_string().contains("about 0.95 ms instead of 5.70 ms"), "{advice}");
}

#[test]
fn what_saving_devices_writes_calls_for_nothing() {
    let tables = EpochCost { running_bitmap: Some((0, Duration::from_micros(20))), ..epoch(1_000, 5_000) };
    assert_eq!(after(&[tables; 10]), []);
    // As long as it is not known which pages those are, nothing is advised, but asked.
    let unknown = EpochCost { running_bitmap: None, ..epoch(1_000, 5_000) };
    let mut advisor = Advisor::new(METHOD);
    for _ in 0..5 {
        assert_eq!(advisor.observe(&unknown), []);
        assert!(advisor.wants_split());
    }
    assert_eq!(advisor.observe(&epoch(100_000, 0)), []);
    assert!(!advisor.wants_split());
}

#[test]
fn a_scan_that_costs_more_than_it_saves_calls_for_nothing() {
    let scan = EpochCost { running_bitmap: Some((5_000, Duration::from_millis(2))), ..epoch(10_000, 5_000) };
    assert_eq!(after(&[scan; 10]), []);
}

#[test]
fn nearly_everything_dirty_calls_for_stopping() {
    let pause = Duration::from_micros(120_200);
    let dirty = EpochCost { last_round: 120_000, pause, ..epoch(125_000, 0) };
    let [advice] = after(&[dirty; 2])[..] else { panic!("one advice") };
    let Advice::StopAndCopy { share, now, instead } = advice else { panic!("{advice}") };
    assert!(share > 0.95);
    assert_eq!(instead.as_micros(), u128::from(PAGES));
    assert_eq!(now, pause + FIRST_WRITE * 125_000);
    assert!(advice.to_string().contains("would cost it about 131.1 ms"), "{advice}");
}

#[test]
fn other_ways_of_tracking_have_no_backup_bitmap() {
    for method in [Method::Bitmap, Method::Ring { entries: 4096 }] {
        let mut advisor = Advisor::new(method);
        for _ in 0..5 {
            assert_eq!(advisor.observe(&epoch(1_000, 50_000)), []);
            assert!(!advisor.wants_split());
        }
    }
}

#[test]
fn one_epoch_changes_nothing() {
    let (much, little) = (epoch(10_000, 5_000), epoch(10_000, 5));
    let mut advisor = Advisor::new(METHOD);
    let given = |advice: Vec<Advice>| !advice.is_empty();
    let answers: Vec<bool> = [much, little, much, little, much, much, little, much, little, little, much]
        .iter()
        .map(|epoch| given(advisor.observe(epoch)))
        .collect();
    assert_eq!(answers, [false, false, false, false, false, true, true, true, true, false, false]);
}

fn epochs() -> impl Strategy<Value = EpochCost> {
    (0..PAGES, 0..PAGES / 2, 0_u64..1_000, 0_u64..100_000, 1_u32..8, 1_u64..5_000).prop_map(
        |(ring, bitmap, again, scan, rounds, nanos)| {
            let last_round = bitmap + ring * again / 1_000;
            let copied = ring + last_round;
            EpochCost {
                running_bitmap: Some((bitmap, Duration::from_nanos(scan))),
                rounds,
                copied: (copied, Duration::from_nanos(copied * nanos)),
                last_round,
                pause: Duration::from_nanos(200_000 + last_round * nanos),
                ..epoch(ring, bitmap)
            }
        },
    )
}

fn advises_bitmaps(advice: &[Advice]) -> bool {
    advice.iter().any(|advice| matches!(advice, Advice::StandaloneBitmaps { .. }))
}

fn advises_stop(advice: &[Advice]) -> bool {
    advice.iter().any(|advice| matches!(advice, Advice::StopAndCopy { .. }))
}

proptest! {
    /// More of the same epoch's pages in the bitmap never takes the advice away.
    #[test]
    fn more_in_the_bitmap_calls_no_less(epoch in epochs(), more in 0_u64..50_000) {
        let moved = more.min(epoch.by_source.ring);
        let mut larger = epoch;
        larger.by_source.bitmap += moved;
        larger.by_source.ring -= moved;
        // The share of the ring's pages that is written again stays what it was.
        let again = epoch.last_round - epoch.by_source.bitmap;
        let again = again.min(larger.by_source.ring * again / epoch.by_source.ring.max(1));
        larger.last_round = larger.by_source.bitmap + again;
        larger.running_bitmap = epoch.running_bitmap.map(|(live, scan)| (live + moved, scan));
        prop_assert!(!advises_bitmaps(&after(&[epoch; 2])) || advises_bitmaps(&after(&[larger; 2])));
    }

    /// More dirty pages never take the advice to stop away, nor does a longer pause.
    #[test]
    fn more_dirty_calls_no_less_for_stopping(epoch in epochs(), more in 0_u64..50_000, longer in 0_u64..1_000_000) {
        let mut larger = epoch;
        larger.by_source.ring += more;
        larger.pause += Duration::from_nanos(longer);
        prop_assert!(!advises_stop(&after(&[epoch; 2])) || advises_stop(&after(&[larger; 2])));
    }

    /// What is advised is less than what is.
    #[test]
    fn what_is_advised_is_cheaper(epoch in epochs()) {
        for advice in after(&[epoch; 2]) {
            let (now, instead) = advice.times();
            prop_assert!(instead < now, "{}", advice);
            prop_assert!((0.0..=2.0).contains(&advice.share()));
        }
    }

    /// Whatever epochs come, the answer changes at most every other time.
    #[test]
    fn answers_do_not_waver(epochs in prop::collection::vec(epochs(), 1..40)) {
        let mut advisor = Advisor::new(METHOD);
        let answers: Vec<_> = epochs.iter().map(|epoch| {
            let advice = advisor.observe(epoch);
            (advises_bitmaps(&advice), advises_stop(&advice))
        }).collect();
        for answers in [answers.iter().map(|a| a.0).collect::<Vec<_>>(), answers.iter().map(|a| a.1).collect()] {
            let changes: Vec<_> = answers.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]).map(|(at, _)| at).collect();
            prop_assert!(changes.windows(2).all(|pair| pair[1] >= pair[0] + 2), "{answers:?}");
        }
    }
}
