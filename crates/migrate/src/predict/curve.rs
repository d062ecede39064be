//! The measured curve, with its scatter.

use super::Window;
use super::draw::{normal, quantile};
use super::fit::Uniform;

/// Windows whose lengths differ by less than this factor are windows of one length.
const ALIKE: f64 = 1.25;
/// One window in so many at either end is none of the guest's habits.
const ODD: usize = 64;
/// More windows of one length than this say no more.
const ENOUGH: usize = 64;
/// Uniform writes are about half of the way from the slope after the first point to 1.
const STEEPEST: f64 = 0.75;

/// Windows by their lengths.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// Never empty.
    groups: Vec<Group>,
    /// Pages of memory.
    most: f64,
    /// Seconds over which the guest was watched, at least.
    watched: f64,
}

/// Windows of one length, in seconds.
#[derive(Clone, Debug)]
struct Group {
    seconds: f64,
    /// Sorted.
    pages: Vec<f64>,
}

impl Group {
    fn mean(&self) -> f64 {
        self.pages.iter().sum::<f64>() / self.pages.len() as f64
    }
}

impl Curve {
    /// `None` if no time was measured.
    pub(super) fn new(windows: &[Window], most: f64) -> Option<Self> {
        let mut windows: Vec<_> = windows.iter().filter(|window| !window.length.is_zero()).collect();
        windows.sort_by_key(|window| window.length);
        let mut groups: Vec<Group> = Vec::new();
        let mut begun = 0.0;
        for window in windows {
            let (seconds, pages) = (window.length.as_secs_f64(), (window.pages as f64).min(most));
            match groups.last_mut() {
                // The mean of the lengths, kept up to date.
                Some(group) if seconds < begun * ALIKE => {
                    group.pages.push(pages);
                    group.seconds += (seconds - group.seconds) / group.pages.len() as f64;
                }
                _ => {
                    begun = seconds;
                    groups.push(Group { seconds, pages: vec![pages] });
                }
            }
        }
        let watched = groups.iter().map(|group| group.seconds * group.pages.len() as f64);
        let watched = watched.fold(0.0, f64::max);
        for group in &mut groups {
            group.pages.sort_by(f64::total_cmp);
            let odd = group.pages.len() / ODD;
            group.pages.truncate(group.pages.len() - odd);
            group.pages.drain(..odd);
        }
        (!groups.is_empty()).then_some(Self { groups, most, watched })
    }

    fn points(groups: &[Group]) -> Vec<(f64, f64)> {
        groups.iter().map(|group| (group.seconds, group.mean())).collect()
    }

    /// The curve as it was measured.
    pub(super) fn middle(&self) -> Drawn {
        let fit = Uniform::best(&Self::points(&self.groups), self.most);
        Drawn { groups: self.groups.clone(), most: self.most, fit, blend: 0.5, scale: 1.0, unseen: 0.0 }
    }

    /// A curve that may have been measured as well: of each length as many windows again, taken from those that were.
    /// `drift`: how far from what it was when it was measured the guest may be when it moves, as the standard deviation of the
    /// logarithm.
    pub(super) fn draw(&self, drift: f64, random: &mut fastrand::Rng) -> Drawn {
        let mut groups = self.groups.clone();
        let mut scatter = 0.0_f64;
        for group in &mut groups {
            let count = group.pages.len();
            let taken = (0..count.min(ENOUGH)).map(|_| group.pages[random.usize(..count)]);
            let (taken, spread) = (taken.collect::<Vec<_>>(), relative_spread(group));
            // Windows of a length that is twice another's scatter less by the root of that; a single one shows none.
            scatter = spread.max(scatter * std::f64::consts::FRAC_1_SQRT_2);
            let off = (scatter / (count as f64).sqrt()).min(1.0) * normal(random);
            group.pages = taken.into_iter().map(|pages| (pages * off.exp()).min(self.most)).collect();
            group.pages.sort_by(f64::total_cmp);
        }
        let fit = Uniform::possible(&Self::points(&groups), self.most, random.f64());
        let scale = (drift * normal(random)).exp();
        // Of events at a rate that showed none in a time, the time to the first is as likely this.
        let unseen = -(1.0 - random.f64()).ln() / self.watched;
        Drawn { groups, most: self.most, fit, blend: random.f64(), scale, unseen }
    }
}

/// The standard deviation as a share of the mean.
fn relative_spread(group: &Group) -> f64 {
    let (mean, count) = (group.mean(), group.pages.len() as f64);
    if mean <= 0.0 {
        return 0.0;
    }
    let variance = group.pages.iter().map(|pages| (pages - mean).powi(2)).sum::<f64>() / count;
    variance.sqrt() / mean
}

/// One curve that agrees with what was measured.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    groups: Vec<Group>,
    most: f64,
    /// Carries the curve to where nothing was measured.
    pub(super) fit: Uniform,
    /// How much the slope at its ends is believed rather than the fit, from 0 to 1.
    blend: f64,
    scale: f64,
    /// Pages a second of which none was seen.
    unseen: f64,
}

impl Drawn {
    /// Different pages written in so many seconds, if the guest writes as much as in the share `at` of the windows, and by
    /// `noise` standard deviations more.
    pub(super) fn pages(&self, seconds: f64, at: f64, noise: f64) -> f64 {
        let above = self.groups.partition_point(|group| group.seconds <= seconds);
        let pages = match (above.checked_sub(1), self.groups.get(above)) {
            (None, Some(shortest)) => self.before(shortest, seconds, at, noise),
            (Some(below), Some(above)) => between(&self.groups[below], above, seconds, at),
            (Some(longest), None) => self.beyond(longest, seconds, at),
            (None, None) => 0.0,
        };
        (pages * self.scale + self.unseen * seconds).clamp(0.0, self.most)
    }

    /// Shorter than any window. Towards shorter times a curve becomes steeper until it is a line through nothing: the slope
    /// is between the one after the first point and 1, nearer the former if a few pages take most of the writes.
    fn before(&self, first: &Group, seconds: f64, at: f64, noise: f64) -> f64 {
        let pages = quantile(&first.pages, at);
        let next = self.groups.get(1).map(|next| (next.seconds, next.mean()));
        let next = next.unwrap_or((first.seconds * 2.0, self.fit.pages(first.seconds * 2.0)));
        let slope = slope((first.seconds, first.mean()), next);
        let mean = pages * (seconds / first.seconds).powf(slope + (1.0 - slope) * STEEPEST * self.blend);
        // Windows show how much their own counts vary, and not those of shorter ones.
        (mean + mean.sqrt() * noise).clamp(0.0, pages)
    }

    /// Longer than any window: between what the fit says, and the slope that the curve has at its end.
    fn beyond(&self, longest: usize, seconds: f64, at: f64) -> f64 {
        let group = &self.groups[longest];
        let times = seconds / group.seconds;
        // Over several such windows the guest's moods even out.
        let pages = group.mean() + (quantile(&group.pages, at) - group.mean()) / times.sqrt();
        let before = longest.checked_sub(1).map(|before| &self.groups[before]);
        let slope = before
            .map_or(1.0, |before| slope((before.seconds, before.mean()), (group.seconds, group.mean())));
        let fit = ratio(self.fit.pages(seconds), self.fit.pages(group.seconds)).clamp(1.0, times);
        pages * times.powf(slope * self.blend) * fit.powf(1.0 - self.blend)
    }
}

/// Along the line between two lengths on a double logarithmic paper.
fn between(below: &Group, above: &Group, seconds: f64, at: f64) -> f64 {
    let share = (seconds / below.seconds).ln() / (above.seconds / below.seconds).ln();
    let (low, high) = (quantile(&below.pages, at), quantile(&above.pages, at));
    let (from, to) = ((low + 0.5).ln(), (high + 0.5).ln());
    (from + (to - from) * share).exp() - 0.5
}

/// Of the curve between two points of seconds and pages on a double logarithmic paper: 1 for a line through nothing, and 0
/// where all pages have been written.
fn slope(from: (f64, f64), to: (f64, f64)) -> f64 {
    if from.1 <= 0.0 {
        return 1.0;
    }
    ((to.1 / from.1).max(1.0).ln() / (to.0 / from.0).ln()).clamp(0.0, 1.0)
}

/// 1 where there is nothing to divide by.
fn ratio(above: f64, below: f64) -> f64 {
    if below > 0.0 { above / below } else { 1.0 }
}
