//! Which encoding pays, found out while the pages travel.

use std::time::Duration;

use crate::wire::Encoding;

/// One run in this many is encoded in a way that did not seem to pay, to see whether it does by now.
const PROBE: u64 = 32;
/// Weight of a new measurement: what the guest writes changes its nature within some dozens of runs.
const NEW: f64 = 0.2;

/// What one encoding was measured to cost.
#[derive(Clone, Copy, Debug)]
struct Arm {
    encoding: Encoding,
    /// Nanoseconds of a processor for a byte of pages; `None` before the first measurement.
    work: Option<f64>,
    /// Bytes on the wire for a byte of pages.
    ratio: f64,
}

/// Chooses the encoding by which a page is soonest across: the processor's time plus the time on the wire, both
/// measured, for each encoding that both sides know.
///
/// A fast link makes compression a loss and a slow one makes it a gain, and neither can be known before the link and the
/// pages are; so the encodings in use are measured as they are used, and the others are tried now and then.
#[derive(Clone, Debug)]
pub struct Economy {
    arms: Vec<Arm>,
    /// Nanoseconds of a processor for a byte of pages that are held to send differences to, and the runs that were.
    holding: f64,
    copied: u64,
    /// Nanoseconds for a byte on the wire.
    wire: f64,
    runs: u64,
}

impl Economy {
    /// A choice among `allowed`, of which those that need no choice are ignored.
    #[must_use]
    pub fn new(allowed: &[Encoding]) -> Self {
        let chosen = [Encoding::Raw, Encoding::Lz4, Encoding::Zstd, Encoding::Delta];
        let arms = chosen
            .into_iter()
            .filter(|encoding| *encoding == Encoding::Raw || allowed.contains(encoding))
            .map(|encoding| Arm { encoding, work: None, ratio: 1.0 })
            .collect();
        Self { arms, holding: 0.0, copied: 0, wire: 0.0, runs: 0 }
    }

    /// The encoding for the next run; `held`: whether the source still has what the destination holds of it.
    pub fn choose(&mut self, held: bool) -> Encoding {
        self.runs += 1;
        let possible = |arm: &&Arm| held || arm.encoding != Encoding::Delta;
        if let Some(untried) = self.arms.iter().filter(possible).find(|arm| arm.work.is_none()) {
            return untried.encoding;
        }
        if self.runs.is_multiple_of(PROBE) {
            let turn = usize::try_from(self.runs / PROBE).unwrap_or_default();
            let arms: Vec<_> = self.arms.iter().filter(possible).collect();
            return arms.get(turn % arms.len().max(1)).map_or(Encoding::Raw, |arm| arm.encoding);
        }
        let best = self.arms.iter().filter(possible);
        let best = best.min_by(|a, b| self.cost(a).total_cmp(&self.cost(b)));
        best.map_or(Encoding::Raw, |arm| arm.encoding)
    }

    fn cost(&self, arm: &Arm) -> f64 {
        arm.work.unwrap_or_default() + arm.ratio * self.wire
    }

    /// Whether differences are worth the copies that they are taken against. One that was not tried is taken to cost nothing:
    /// where the copies alone cost more than to send pages in another way, none need be.
    #[must_use]
    pub fn delta_pays(&self) -> bool {
        let [mut delta, mut other] = [f64::INFINITY; 2];
        for arm in &self.arms {
            match arm {
                // One copy may have been made while somebody else had the processor.
                Arm { encoding: Encoding::Delta, work: None, .. } if self.copied < PROBE => return true,
                Arm { encoding: Encoding::Delta, work: None, .. } => delta = self.holding,
                Arm { encoding: Encoding::Delta, .. } => delta = self.cost(arm) + self.holding,
                Arm { work: Some(_), .. } => other = other.min(self.cost(arm)),
                Arm { .. } => {}
            }
        }
        delta < other
    }

    /// Copies of `pages` bytes took `work` to be made.
    pub fn held(&mut self, pages: usize, work: Duration) {
        let work = work.as_secs_f64() * 1e9 / as_f64(pages).max(1.0);
        self.copied += 1;
        self.holding += if self.holding == 0.0 { work } else { NEW * (work - self.holding) };
    }

    /// A run of `pages` bytes took `work` to encode into `wire` bytes.
    pub fn encoded(&mut self, encoding: Encoding, pages: usize, wire: usize, work: Duration) {
        let Some(arm) = self.arms.iter_mut().find(|arm| arm.encoding == encoding) else { return };
        let (pages, wire) = (as_f64(pages).max(1.0), as_f64(wire));
        let (work, ratio) = (work.as_secs_f64() * 1e9 / pages, wire / pages);
        match &mut arm.work {
            Some(known) => {
                *known += NEW * (work - *known);
                arm.ratio += NEW * (ratio - arm.ratio);
            }
            None => (arm.work, arm.ratio) = (Some(work), ratio),
        }
    }

    /// `bytes` took `time` to be sent, waits for the window included.
    pub fn sent(&mut self, bytes: usize, time: Duration) {
        let wire = time.as_secs_f64() * 1e9 / as_f64(bytes).max(1.0);
        self.wire += if self.wire == 0.0 { wire } else { NEW * (wire - self.wire) };
    }
}

#[allow(clippy::cast_precision_loss, reason = "lengths of a frame are far below 2^52")]
fn as_f64(bytes: usize) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Encoding] = &[Encoding::Raw, Encoding::Lz4, Encoding::Zstd, Encoding::Delta];
    const RUN: usize = 1 << 18;

    /// Plays `runs` runs over a link of `wire` ns a byte and returns how often each encoding was used in the second half.
    fn play(wire: f64, held: bool) -> Vec<(Encoding, usize)> {
        let mut economy = Economy::new(ALL);
        let mut uses = [Encoding::Raw, Encoding::Lz4, Encoding::Zstd, Encoding::Delta].map(|e| (e, 0));
        for run in 0..2000 {
            let encoding = economy.choose(held);
            let (work, ratio) = match encoding {
                Encoding::Lz4 => (1.5, 0.5),
                Encoding::Zstd => (5.0, 0.3),
                Encoding::Delta => (0.8, 0.02),
                _ => (0.0, 1.0),
            };
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small positive number"
            )]
            let bytes = (as_f64(RUN) * ratio) as usize;
            economy.encoded(encoding, RUN, bytes, Duration::from_secs_f64(as_f64(RUN) * work / 1e9));
            economy.sent(bytes, Duration::from_secs_f64(as_f64(bytes) * wire / 1e9));
            if run >= 1000 {
                uses.iter_mut().filter(|(e, _)| *e == encoding).for_each(|(_, n)| *n += 1);
            }
        }
        uses.to_vec()
    }

    fn favourite(wire: f64, held: bool) -> Encoding {
        play(wire, held).into_iter().max_by_key(|(_, uses)| *uses).unwrap().0
    }

    #[test]
    fn the_link_decides() {
        assert_eq!(favourite(0.3, false), Encoding::Raw, "3 GB/s");
        assert_eq!(favourite(8.0, false), Encoding::Lz4, "125 MB/s");
        assert_eq!(favourite(80.0, false), Encoding::Zstd, "12.5 MB/s");
        assert_eq!(favourite(8.0, true), Encoding::Delta);
    }

    #[test]
    fn copies_are_kept_where_differences_pay_for_them() {
        let pays = |wire: f64, holding: u64| {
            let mut economy = Economy::new(ALL);
            assert!(economy.delta_pays(), "nobody has tried");
            for (encoding, work, ratio) in
                [(Encoding::Raw, 0, 1000), (Encoding::Lz4, 1500, 500), (Encoding::Delta, 800, 20)]
            {
                economy.encoded(encoding, 1000, ratio, Duration::from_nanos(work));
            }
            economy.sent(1000, Duration::from_secs_f64(wire * 1e-6));
            economy.held(1000, Duration::from_nanos(holding));
            economy.delta_pays()
        };
        assert!(pays(8.0, 300));
        assert!(!pays(0.3, 300), "a fast link");
        assert!(!pays(1.0, 1000), "dear copies");
        assert!(pays(1.0, 100));

        let untried = |wire: f64, holding: u64| {
            let mut economy = Economy::new(ALL);
            economy.encoded(Encoding::Raw, 1000, 1000, Duration::ZERO);
            economy.sent(1000, Duration::from_secs_f64(wire * 1e-6));
            for _ in 0..PROBE {
                if economy.delta_pays() {
                    economy.held(1000, Duration::from_nanos(holding));
                }
            }
            economy.delta_pays()
        };
        assert!(untried(8.0, 1000));
        assert!(!untried(0.3, 1000), "the copies cost more than the pages");
    }

    #[test]
    fn what_is_not_allowed_or_not_possible_is_not_used() {
        let mut economy = Economy::new(&[Encoding::Zero]);
        assert!((0..100).all(|_| economy.choose(true) == Encoding::Raw));
        assert!(play(8.0, false).iter().all(|(e, uses)| *e != Encoding::Delta || *uses == 0));
    }
}
