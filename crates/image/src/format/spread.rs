//! Over how many extents pages are spread: what a restore has to decode for them.

use super::node::{Extent, Place};

/// What the stored pages of an image, or of a part of it, cost a restore, and what they would cost if they were stored
/// anew, side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Pages in extents.
    pub(crate) stored: u64,
    /// The extents that they are in.
    pub(crate) extents: u64,
    /// The pages of these extents, those included that nobody needs any more.
    pub(crate) decoded: u64,
    /// Groups that have a stored page: the extents that would do.
    pub(crate) groups: u64,
}

impl Spread {
    /// Of the pages of a leaf, or of a group of it. A group is `group` pages, as many as an extent has.
    pub(crate) fn of(places: &[Place], group: usize) -> Self {
        let mut spread = Self::default();
        let mut extents: Vec<Extent> = Vec::new();
        for group in places.chunks(group) {
            let before = spread.stored;
            for place in group {
                let Place::Stored { extent, .. } = place else { continue };
                spread.stored += 1;
                // Most pages lie beside the one before.
                if !extents.iter().rev().any(|e| e == extent) {
                    extents.push(*extent);
                    spread.decoded += u64::from(extent.pages);
                }
            }
            spread.groups += u64::from(spread.stored > before);
        }
        spread.extents = extents.len() as u64;
        spread
    }

    /// Pages that are decoded in vain, and extents that there are too many.
    pub(crate) const fn waste(&self) -> u64 {
        self.decoded.saturating_sub(self.stored) + self.extents.saturating_sub(self.groups)
    }

    /// The same with `new` in the place of `old`.
    pub(crate) const fn exchange(&self, old: &Self, new: &Self) -> Self {
        const fn one(all: u64, old: u64, new: u64) -> u64 {
            all.saturating_add(new).saturating_sub(old)
        }
        Self {
            stored: one(self.stored, old.stored, new.stored),
            extents: one(self.extents, old.extents, new.extents),
            decoded: one(self.decoded, old.decoded, new.decoded),
            groups: one(self.groups, old.groups, new.groups),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::format::node::Encoding;

    fn stored(number: u64, pages: u8) -> Place {
        let extent =
            Extent { pack: 1, offset: 64 * number, len: 60, pages, encoding: Encoding::Zstd, hash: [7; 16] };
        Place::Stored { extent, skip: 0, hash: number }
    }

    #[test]
    fn waste_is_what_is_decoded_in_vain() {
        let mut places = [Place::Zero; 64];
        assert_eq!(Spread::of(&places, 16), Spread::default());
        places[..16].fill(stored(1, 16));
        places[20] = Place::Repeated(5);
        let whole = Spread::of(&places, 16);
        assert_eq!(whole, Spread { stored: 16, extents: 1, decoded: 16, groups: 1 });
        assert_eq!(whole.waste(), 0);
        // Two pages are stored elsewhere, each by itself, and one becomes zero.
        (places[3], places[9], places[10]) = (stored(2, 1), stored(3, 1), Place::Zero);
        let strewn = Spread::of(&places, 16);
        assert_eq!(strewn, Spread { stored: 15, extents: 3, decoded: 18, groups: 1 });
        assert_eq!(strewn.waste(), 3 + 2);
        let all = Spread { stored: 116, extents: 8, decoded: 120, groups: 8 };
        let more = Spread { stored: 115, extents: 10, decoded: 122, groups: 8 };
        assert_eq!(all.exchange(&whole, &strewn), more);
        assert_eq!(all.exchange(&whole, &strewn).exchange(&strewn, &whole), all);
    }
}
