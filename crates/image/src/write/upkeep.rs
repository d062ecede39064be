//! When pages of the parent are stored again beside those that were put.
//!
//! Single pages that are put here and there leave extents behind of which little is needed, and extents of one page
//! each: an image at the end of a long chain would take twice as long to restore as a base. So the writer keeps count of
//! what a restore would decode, and when too much of that is in vain, a group of pages (those that one extent holds)
//! of which some are put is stored anew as a whole.
//!
//! What it costs is bounded: a page that is put adds at most two to the waste of its group, itself as one more extent and
//! the page that it replaces, and a group is stored anew only when its waste is more than that. So at least two pages were
//! put for each group that is stored, however long the chain. And nothing is stored again while the image as a whole
//! is in good order: pages that are written again and again cost nothing more.

use std::collections::HashSet;

use crate::Image;
use crate::format::node::Place;
use crate::format::spread::Spread;

/// Of so many pages and extents that a restore needs, one may be in vain.
const NEEDED: u64 = 24;

/// The waste of a group that is left alone.
const PATIENCE: u64 = 2;

/// What a group comes to if its pages are put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prospect {
    pub(crate) before: Spread,
    pub(crate) after: Spread,
}

/// What the writer knows of the image so far.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    spread: Spread,
    /// First pages of the groups that were stored anew.
    done: HashSet<u64>,
}

impl Upkeep {
    pub(crate) fn new(parent: Option<&Image>) -> Self {
        Self { spread: parent.map(|p| p.meta().spread).unwrap_or_default(), done: HashSet::new() }
    }

    /// Whether groups are stored anew at the moment.
    pub(crate) const fn is_due(&self) -> bool {
        self.spread.waste().saturating_mul(NEEDED) > self.spread.stored + self.spread.groups
    }

    /// Whether the group whose first page has this number is worth it, and was not stored anew already.
    pub(crate) fn wants(&self, first: u64, prospect: &Prospect) -> bool {
        prospect.after.waste() > PATIENCE && !self.done.contains(&first)
    }

    /// The group was put, or with `whole` stored anew.
    pub(crate) fn note(&mut self, first: u64, prospect: &Prospect, whole: bool) {
        let mut after = prospect.after;
        if whole {
            self.done.insert(first);
            (after.extents, after.decoded) = (after.groups, after.stored);
        }
        self.spread = self.spread.exchange(&prospect.before, &after);
    }
}

impl Prospect {
    /// Of the `pages` of `group` that are put: `new` has what they become, and a place of no meaning for those that are
    /// stored.
    pub(crate) fn of(before: &[Place], new: &[Option<Place>], group: usize) -> Self {
        let merged: Vec<Place> = before.iter().zip(new).map(|(old, new)| new.unwrap_or(*old)).collect();
        Self { before: Spread::of(before, group), after: Spread::of(&merged, group) }
    }
}
