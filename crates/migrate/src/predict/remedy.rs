//! What it would take.

use serde::{Deserialize, Serialize};

/// The goal counts as met if it is in so many of the futures.
pub(super) const ENOUGH: f64 = 0.9;
/// Steps of the search: a thousandth of what is searched through.
const STEPS: u32 = 10;
/// A link is not looked for among those that are faster by more than 2^this.
const FASTER: f64 = 12.0;

/// What it would take to meet the goal in nine of ten migrations, each alone; `None` where it does not suffice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Remedies {
    /// The share of the guest's writes that would have to be held back, from 0 to 1.
    pub throttle: Option<f64>,
    /// Bytes a second.
    pub bandwidth: Option<f64>,
    /// Bytes on the wire for each that is sent at present.
    pub compression: Option<f64>,
}

impl Remedies {
    /// Each in words that go on from "it would take"; none if nothing is known to help.
    #[must_use]
    pub fn ways(&self) -> Vec<String> {
        let bandwidth = self.bandwidth.map(|bandwidth| format!("a link of {:.0} MB/s", bandwidth / 1e6));
        let throttle = self.throttle.map(|share| format!("{:.0} % of its writes held back", share * 100.0));
        let compression = self
            .compression
            .map(|ratio| format!("pages of {:.0} % of their size on the wire", ratio * 100.0));
        bandwidth.into_iter().chain(throttle).chain(compression).collect()
    }
}

/// `chance` is that of the goal with a share of the writes held back, a factor of the bandwidth, and one of the bytes.
pub(super) fn find(bandwidth: f64, chance: &dyn Fn(f64, f64, f64) -> f64) -> Remedies {
    let faster = |power: f64| (power * FASTER).exp2();
    Remedies {
        throttle: least(&|share| chance(share, 1.0, 1.0)),
        bandwidth: least(&|power| chance(0.0, faster(power), 1.0)).map(|power| faster(power) * bandwidth),
        compression: least(&|power| chance(0.0, 1.0, 1.0 / faster(power))).map(|power| 1.0 / faster(power)),
    }
}

/// The least measure, of 0 to 1, that helps as far as the search has shown; `None` if the greatest does not.
fn least(chance: &dyn Fn(f64) -> f64) -> Option<f64> {
    let (mut short, mut enough) = (0.0, 1.0);
    if chance(enough) < ENOUGH {
        return None;
    }
    for _ in 0..STEPS {
        let middle = f64::midpoint(short, enough);
        *(if chance(middle) >= ENOUGH { &mut enough } else { &mut short }) = middle;
    }
    Some(enough)
}
