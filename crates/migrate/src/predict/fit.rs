//! The curve of a guest that writes uniformly, and where its rounds end.

/// Working sets that are tried: each is a tenth larger than the one before where memory is a hundred times what was seen.
const GRID: u32 = 48;
/// A window in which nearly all of W was written says nothing of r.
const FULL: f64 = 0.995;
/// How much worse than the best a working set may fit and still be thought possible: the sum of the relative errors grows
/// by this factor, and by this much for each point.
const SLACK: (f64, f64) = (1.3, 0.01);

/// A guest that writes `rate` pages a second uniformly over `hot` pages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Uniform {
    /// W, in pages.
    pub hot: f64,
    /// r, in writes a second.
    pub rate: f64,
}

impl Uniform {
    /// D(t): different pages that are written in so many seconds.
    #[must_use]
    pub fn pages(&self, seconds: f64) -> f64 {
        if self.hot <= 0.0 || self.rate <= 0.0 {
            return 0.0;
        }
        -self.hot * (-self.rate * seconds / self.hot).exp_m1()
    }

    /// The best fit through points of seconds and pages, of guests with no more than `most` pages.
    pub(super) fn best(points: &[(f64, f64)], most: f64) -> Self {
        let Some((from, to)) = range(points, most) else { return Self::default() };
        let step = (to / from).ln() / f64::from(GRID);
        let coarse = cheapest(points, (0..=GRID).map(|i| from * (step * f64::from(i)).exp()));
        let near = |i: u32| coarse.hot * (step * (f64::from(i) / 12.0 - 1.0)).exp();
        cheapest(points, (0..=24).map(near).map(|hot| hot.clamp(from, to)))
    }

    /// One of the fits that are about as good as the best: the first of them if `pick` is 0, the last if it is 1.
    pub(super) fn possible(points: &[(f64, f64)], most: f64, pick: f64) -> Self {
        let Some((from, to)) = range(points, most) else { return Self::default() };
        let step = (to / from).ln() / f64::from(GRID);
        let all: Vec<_> =
            (0..=GRID).map(|i| Self::through(points, from * (step * f64::from(i)).exp())).collect();
        let best = all.iter().map(|(_, cost)| *cost).fold(f64::INFINITY, f64::min);
        let enough = best * SLACK.0 + SLACK.1 * points.len() as f64;
        let good: Vec<_> = all.into_iter().filter(|(_, cost)| *cost <= enough).collect();
        let place = super::draw::count(pick * good.len() as f64 - 0.5);
        let place = usize::try_from(place).unwrap_or(usize::MAX).min(good.len().saturating_sub(1));
        good.get(place).map_or_else(Self::default, |(fit, _)| *fit)
    }

    /// The rate that suits a working set best, and the sum of the relative errors, of which none counts more than 1: a burst
    /// in one window is not to bend the curve.
    fn through(points: &[(f64, f64)], hot: f64) -> (Self, f64) {
        let mut rates: Vec<(f64, f64)> = points
            .iter()
            .filter(|(_, pages)| *pages > 0.0)
            .map(|(seconds, pages)| {
                let share = (pages / hot).min(FULL);
                (-hot / seconds * (-share).ln_1p(), 1.0 - share)
            })
            .collect();
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let half = rates.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
        let mut sum = 0.0;
        let middle = rates.iter().find(|(_, weight)| {
            sum += weight;
            sum >= half
        });
        let fit = Self { hot, rate: middle.map_or(0.0, |(rate, _)| *rate) };
        let error =
            |(seconds, pages): &(f64, f64)| ((pages + 0.5) / (fit.pages(*seconds) + 0.5)).ln().abs().min(1.0);
        (fit, points.iter().map(error).sum())
    }
}

fn cheapest(points: &[(f64, f64)], sets: impl Iterator<Item = f64>) -> Uniform {
    let fits = sets.map(|hot| Uniform::through(points, hot));
    fits.min_by(|a, b| a.1.total_cmp(&b.1)).map_or_else(Uniform::default, |(fit, _)| fit)
}

/// The working sets that are possible; `None` if nothing was ever written.
fn range(points: &[(f64, f64)], most: f64) -> Option<(f64, f64)> {
    let seen = points.iter().map(|(_, pages)| *pages).fold(0.0, f64::max);
    (seen > 0.0).then(|| (seen, most.max(seen)))
}

/// The share x of its working set below which no round of a uniform guest comes, as long as rounds are long enough to be
/// harvested beside: 1 − 1/ρ, for a page of the round is owed with a chance of 1 − (1 − e^(−ρx))/ρx and any other with one of
/// 1 − e^(−ρx).
#[must_use]
pub fn floor_share(rho: f64) -> f64 {
    // Also where ρ is no number.
    if rho > 1.0 { 1.0 - 1.0 / rho } else { 0.0 }
}
