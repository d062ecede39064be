//! What holds of every prediction.

use std::time::Duration;

use proptest::prelude::*;

use super::coverage::conditions;
use super::guests::{Guest, MEMORY, Pattern};
use crate::predict::*;

/// Windows of a guest that writes uniformly, without scatter.
fn smooth(hot: f64, rate: f64) -> Vec<Window> {
    let guest = Uniform { hot, rate };
    (0..9_u32)
        .flat_map(|power| {
            let length = Duration::from_millis(4 << power);
            let pages = draw::count(guest.pages(length.as_secs_f64()));
            std::iter::repeat_n(Window { length, pages }, 256 >> power)
        })
        .collect()
}

fn exact(bandwidth: f64, goal: Duration) -> Conditions {
    Conditions {
        first_round: None,
        page_bytes: Estimate::exact(4096.0),
        bandwidth: Estimate::exact(bandwidth),
        setup: Estimate::exact(0.0),
        round: Estimate::exact(0.0),
        downtime: Estimate::exact(0.001),
        waits: Waits::NONE,
        goal: Goal { downtime: goal, total: None },
        throttle: false,
        ..conditions(bandwidth, 7)
    }
}

#[test]
fn the_fixed_point_is_the_known_one() {
    for (rho, share) in [(0.5, 0.0), (1.0, 0.0), (1.1, 0.091), (1.5, 0.333), (2.0, 0.5), (3.0, 0.667)] {
        assert!((floor_share(rho) - share).abs() < 0.006, "{rho}: {}", floor_share(rho));
    }
    for (rho, share) in [(f64::NAN, 0.0), (f64::INFINITY, 1.0), (-1.0, 0.0), (1e300, 1.0)] {
        assert!((floor_share(rho) - share).abs() < 1e-9, "{rho}: {}", floor_share(rho));
    }
}

#[test]
fn the_curve_tells_the_working_set_and_the_rate() {
    for (hot, rate) in [(500.0, 1e4), (2_000.0, 2e4), (20_000.0, 1e5)] {
        let prediction = predict(&smooth(hot, rate), &exact(1e8, Duration::ZERO)).unwrap();
        let (w, r) = (prediction.hot_pages.expected, prediction.dirty_pages_rate.expected);
        assert!((w / hot - 1.0).abs() < 0.1 && (r / rate - 1.0).abs() < 0.15, "{w} of {hot}, {r} of {rate}");
    }
}

#[test]
fn one_burst_does_not_bend_it() {
    let mut windows = smooth(2_000.0, 2e4);
    windows.push(Window { length: Duration::from_millis(4), pages: MEMORY });
    let prediction = predict(&windows, &exact(1e8, Duration::ZERO)).unwrap();
    assert!((prediction.hot_pages.expected / 2_000.0 - 1.0).abs() < 0.1, "{:?}", prediction.hot_pages);
}

#[test]
fn a_uniform_guest_has_the_floor_of_the_formula() {
    // 1.5 times 100 MB/s.
    let prediction =
        predict(&smooth(8_000.0, 1.5e8 / 4096.0), &exact(1e8, Duration::from_millis(5))).unwrap();
    let pages = prediction.floor_pages.expected / 8_000.0;
    assert!((pages - 0.333).abs() < 0.06, "{pages}");
    assert!((prediction.floor_share.expected - 0.333).abs() < 0.06, "{:?}", prediction.floor_share);
    assert!(prediction.downtime.expected >= 0.9 * prediction.floor_downtime.expected);
    let remedies = prediction.remedies.unwrap();
    let bandwidth = remedies.bandwidth.unwrap();
    let faster = predict(&smooth(8_000.0, 1.5e8 / 4096.0), &exact(bandwidth, Duration::from_millis(5)));
    assert!(faster.unwrap().chance >= 0.8, "{remedies:?}");
    // A twentieth of the floor takes a guest that writes slower than the link sends.
    assert!(remedies.throttle.is_some_and(|share| share > 0.25 && share < 0.9), "{remedies:?}");
    assert!(remedies.compression.is_some_and(|ratio| ratio < 0.7 && ratio > 0.05), "{remedies:?}");
}

#[test]
fn what_cannot_be_had_has_no_remedy() {
    let short = Duration::from_micros(10);
    let prediction = predict(&smooth(8_000.0, 1e5), &exact(1e8, short)).unwrap();
    assert_eq!(prediction.remedies, Some(Remedies::default()), "a millisecond of the downtime is no page's");
}

#[test]
fn a_guest_that_writes_nothing_leaves_at_once() {
    let windows = vec![Window { length: Duration::from_millis(500), pages: 0 }; 4];
    let prediction = predict(&windows, &exact(1e9, Duration::from_millis(5))).unwrap();
    assert!(prediction.chance > 0.99 && prediction.downtime.most[1] < 1.5, "{prediction:?}");
    assert!(prediction.rounds.most[1] <= 4.0, "{:?}", prediction.rounds);
}

#[test]
fn one_that_writes_everything_stands_still_for_all_of_it() {
    let windows = vec![Window { length: Duration::from_millis(100), pages: MEMORY }; 8];
    let prediction = predict(&windows, &exact(1e8, Duration::from_millis(5))).unwrap();
    let all = MEMORY as f64 * 4096.0 / 1e8 * 1e3;
    assert!((prediction.downtime.expected / all - 1.0).abs() < 0.1, "{:?}", prediction.downtime);
    assert!(prediction.chance < 0.01);
}

#[test]
fn nothing_measured_is_nothing_predicted() {
    let nothing = [Window { length: Duration::ZERO, pages: 9 }];
    for windows in [&[][..], &nothing] {
        assert_eq!(predict(windows, &exact(1e8, Duration::ZERO)), Err(PredictError::NothingMeasured));
    }
}

#[test]
fn a_measurement_has_windows_of_every_length() {
    let mut guest = Guest::new(Pattern::Sequential, MEMORY, 1_000.0, 1);
    let mut sampler = Sampler::new();
    for _ in 0..4 {
        let pages = guest.run(0.010);
        sampler.push(Duration::from_millis(10), pages);
    }
    let shape: Vec<_> = sampler.windows().iter().map(|w| (w.length.as_millis(), w.pages)).collect();
    assert_eq!(shape, [(10, 10), (10, 10), (20, 20), (10, 10), (10, 10), (20, 20), (40, 40)]);
}

#[test]
fn samples_say_how_far_off_the_next_may_be() {
    let same = Estimate::of(&[2.0; 9]);
    assert!((same.value() - 2.0).abs() < 1e-9 && same.spread() < 1e-9);
    let wide = Estimate::of(&[1.0, 2.0, 4.0]);
    assert!((wide.value() - 2.0).abs() < 1e-9 && wide.spread() > 0.5, "{wide:?}");
    assert!(Estimate::of(&[f64::NAN, -1.0]).value() == 0.0);
}

/// Every number of a prediction.
fn numbers(prediction: &Prediction) -> Vec<f64> {
    let p = prediction;
    let bounds = [
        p.hot_pages,
        p.dirty_pages_rate,
        p.rho,
        p.floor_share,
        p.floor_pages,
        p.floor_downtime,
        p.rounds,
        p.total_time,
        p.downtime,
    ];
    let mut all = vec![p.chance];
    for b in bounds {
        let ordered = [b.most[0], b.half[0], b.expected, b.half[1], b.most[1]];
        assert!(ordered.is_sorted(), "{b:?}");
        all.extend(ordered);
    }
    all.extend(p.remedies.iter().flat_map(|r| [r.throttle, r.bandwidth, r.compression]).flatten());
    all.extend(p.course.iter().map(|step| step.elapsed));
    all
}

fn any_window() -> impl Strategy<Value = Window> {
    let length = prop_oneof![any::<u64>(), 0..10_000_000_000_u64, 0..100_u64];
    let pages = prop_oneof![any::<u64>(), 0..100_000_u64, 0..3_u64];
    (length, pages).prop_map(|(nanos, pages)| Window { length: Duration::from_nanos(nanos), pages })
}

fn any_estimate() -> impl Strategy<Value = Estimate> {
    let number = || prop_oneof![any::<f64>(), 0.0..1e10, 0.0..1.0, Just(f64::INFINITY), Just(f64::NAN)];
    (number(), number()).prop_map(|(value, spread)| Estimate::around(value, spread))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_number_is_one(
        windows in proptest::collection::vec(any_window(), 0..40),
        estimates in proptest::array::uniform6(any_estimate()),
        memory_pages in prop_oneof![any::<u64>(), 0..1_000_000_u64],
        downtime in any::<u64>(),
        total in proptest::option::of(any::<u64>()),
        late in proptest::collection::vec(any::<f64>(), 0..40),
        watched in any::<f64>(),
        first_rest in any::<f64>(),
        first_left in proptest::option::of(any::<u64>()),
        seed in any::<u64>(),
    ) {
        let [first_bytes, page_bytes, bandwidth, setup, round, fixed] = estimates;
        let goal =
            Goal { downtime: Duration::from_nanos(downtime), total: total.map(Duration::from_millis) };
        let waits = Waits::of(&late, watched);
        let conditions =
            Conditions { memory_pages, first_bytes, first_round: None, first_rest, first_left, page_bytes, bandwidth, setup, round, downtime: fixed, waits, goal, throttle: false, seed };
        if let Ok(prediction) = predict(&windows, &conditions) {
            for number in numbers(&prediction) {
                prop_assert!(number.is_finite() && number >= 0.0, "{number} in {prediction:?}");
            }
            prop_assert!(prediction.chance <= 1.0 && prediction.floor_share.most[1] <= 1.0);
            prop_assert_eq!(predict(&windows, &conditions), Ok(prediction), "the seed decides");
        }
    }

    #[test]
    fn more_bandwidth_never_hurts(
        hot in 100.0..20_000.0_f64,
        rate in 1e3..2e5_f64,
        bandwidth in 5e7..2e9_f64,
        faster in 1.05..4.0_f64,
    ) {
        let windows = smooth(hot, rate);
        let goal = Duration::from_millis(5);
        let at = |bandwidth| Forecast::new(&windows, &exact(bandwidth, goal)).unwrap().prediction();
        let (slow, fast) = (at(bandwidth), at(bandwidth * faster));
        let less = |a: &Bounds, b: &Bounds, slack: f64| {
            a.expected <= b.expected * (1.0 + 1e-9) + slack && a.most[1] <= b.most[1] * (1.0 + 1e-9) + slack
        };
        prop_assert!(less(&fast.rho, &slow.rho, 0.0));
        prop_assert!(less(&fast.floor_share, &slow.floor_share, 1e-6));
        // The search for a fixed point ends within a thousandth of it.
        prop_assert!(less(&fast.floor_pages, &slow.floor_pages, 1.0 + 0.01 * slow.floor_pages.most[1]));
        prop_assert!(less(&fast.total_time, &slow.total_time, 0.0), "{:?} {:?}", fast.total_time, slow.total_time);
        // A set of 64 pages is small enough, and whether the last one is of 64 or of none is chance.
        let slack = 64.0 * 4096.0 / bandwidth * 1e3 + 0.1 * slow.downtime.most[1];
        prop_assert!(less(&fast.downtime, &slow.downtime, slack), "{:?} {:?}", fast.downtime, slow.downtime);
    }

    #[test]
    fn a_goal_that_asks_for_less_takes_no_longer(
        hot in 100.0..20_000.0_f64,
        rate in 1e3..2e5_f64,
        bandwidth in 5e7..2e9_f64,
        goal in 1_u64..50,
        more in 1_u64..100,
    ) {
        let windows = smooth(hot, rate);
        let at = |goal| Forecast::new(&windows, &exact(bandwidth, Duration::from_millis(goal))).unwrap().prediction();
        let (strict, lax) = (at(goal), at(goal + more));
        prop_assert!(lax.rounds.expected <= strict.rounds.expected);
        prop_assert!(lax.chance >= strict.chance - 0.05, "{} {}", lax.chance, strict.chance);
        prop_assert_eq!(lax.floor_downtime, strict.floor_downtime);
    }
}
