//! Where the writer has put each page so far.

use std::collections::BTreeMap;
use std::ops::Range;

use ringmark_dirty::mutant::{self, Mutant};

use super::output::Fate;
use crate::format::node::FANOUT;

/// What was put for a page last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Put {
    /// Nothing.
    #[default]
    Nothing,
    Unchanged,
    Zero,
    Repeated(u64),
    /// In this one of the writer's extents, behind `skip` of its pages.
    Stored {
        extent: u32,
        skip: u8,
        hash: u64,
    },
    /// It is what it is in the parent, and was stored again beside others; if `put`, it was put too.
    Gathered {
        extent: u32,
        skip: u8,
        hash: u64,
        put: bool,
    },
}

impl Put {
    const fn is_put(self) -> bool {
        !matches!(self, Self::Nothing | Self::Gathered { put: false, .. })
    }
}

/// In which of the writer's extents pages of a leaf are, and behind how many others.
#[derive(Debug)]
pub(crate) struct Homes([(u32, u8); 64]);

impl Homes {
    /// Of the pages that are in these extents.
    pub(crate) fn new(extents: impl Iterator<Item = (u32, u64)>) -> Self {
        let mut homes = [(0u32, 0u8); 64];
        for (extent, held) in extents {
            let mut skip = 0;
            for (page, home) in homes.iter_mut().enumerate() {
                if held >> page & 1 == 1 {
                    *home = (extent, skip);
                    skip += 1;
                }
            }
        }
        Self(homes)
    }
}

/// What was put for the pages of a leaf.
pub(crate) type Puts = [Put; 64];

/// What was put. Costs what was put, and of zero pages next to nothing.
#[derive(Debug, Default)]
pub(crate) struct PageTable {
    leaves: BTreeMap<u64, Box<Puts>>,
    /// Leaves all of whose pages were put as zero, unless they are in `leaves`: first to end, disjoint.
    zeroed: BTreeMap<u64, u64>,
    /// How often a page was put again.
    pub(crate) superseded: u64,
}

impl PageTable {
    /// Enters what became of the pages `pages` of `leaf`; those stored are where `homes` says.
    pub(crate) fn put(&mut self, leaf: u64, pages: u64, fates: &[Fate], homes: &Homes) {
        let mut superseded = 0;
        let puts = self.leaf(leaf);
        let numbers = (0..64).filter(|i| pages >> i & 1 == 1);
        for (page, fate) in numbers.zip(fates) {
            let (extent, skip) = homes.0[page];
            let new = match *fate {
                Fate::Unchanged => Put::Unchanged,
                Fate::Zero => Put::Zero,
                Fate::Repeated(word) => Put::Repeated(word),
                Fate::Stored(hash) => Put::Stored { extent, skip, hash },
            };
            superseded += u64::from(puts[page].is_put());
            puts[page] = new;
        }
        self.superseded += superseded;
    }

    /// Enters that pages of `leaf`, each with its hash, were stored again. What was put for them counts: it is newer than
    /// what the parent has, be it put before or after.
    pub(crate) fn gather(&mut self, leaf: u64, pages: impl Iterator<Item = (u8, u64)>, homes: &Homes) {
        for (page, hash) in pages {
            let (extent, skip) = homes.0[usize::from(page)];
            let put = &mut self.leaf(leaf)[usize::from(page)];
            let unchanged = matches!(*put, Put::Unchanged | Put::Gathered { put: true, .. });
            if unchanged || !put.is_put() || mutant::active(Mutant::GatheredOverPut) {
                *put = Put::Gathered { extent, skip, hash, put: unchanged };
            }
        }
    }

    /// Enters that `pages`, counted through, are zero.
    pub(crate) fn put_zero(&mut self, pages: &Range<u64>) {
        let whole = pages.start.div_ceil(FANOUT)..pages.end / FANOUT;
        if whole.is_empty() {
            self.zero_each(pages.clone());
            return;
        }
        self.zero_each(pages.start..whole.start * FANOUT);
        self.zero_each(whole.end * FANOUT..pages.end);
        let inside: Vec<u64> = self.leaves.range(whole.clone()).map(|(leaf, _)| *leaf).collect();
        for leaf in inside {
            let puts = self.leaves.remove(&leaf);
            let count = puts.map_or(0, |puts| puts.iter().filter(|p| p.is_put()).count());
            // Where the leaf was zeroed before, all its pages were put.
            let before = if self.is_zeroed(leaf) { 0 } else { count as u64 };
            self.superseded += before;
        }
        self.zero_leaves(whole);
    }

    fn zero_each(&mut self, pages: Range<u64>) {
        for number in pages {
            let in_leaf = (number % FANOUT) as usize;
            let put = &mut self.leaf(number / FANOUT)[in_leaf];
            let again = put.is_put();
            *put = Put::Zero;
            self.superseded += u64::from(again);
        }
    }

    fn zero_leaves(&mut self, mut new: Range<u64>) {
        // What it overlaps or touches becomes part of it.
        let before = self.zeroed.range(..=new.end).next_back().map(|(s, e)| (*s, *e));
        let mut next = before;
        while let Some((start, end)) = next.filter(|(_, end)| *end >= new.start) {
            self.zeroed.remove(&start);
            let overlap = end.min(new.end).saturating_sub(start.max(new.start));
            self.superseded += overlap * FANOUT;
            new = new.start.min(start)..new.end.max(end);
            next = self.zeroed.range(..=new.end).next_back().map(|(s, e)| (*s, *e));
        }
        self.zeroed.insert(new.start, new.end);
    }

    fn is_zeroed(&self, leaf: u64) -> bool {
        self.zeroed.range(..=leaf).next_back().is_some_and(|(_, end)| leaf < *end)
    }

    fn leaf(&mut self, leaf: u64) -> &mut Puts {
        let first = if self.is_zeroed(leaf) { Put::Zero } else { Put::Nothing };
        self.leaves.entry(leaf).or_insert_with(|| Box::new([first; 64]))
    }

    /// What was put for the pages of `leaf`, if it is not the same for all.
    pub(crate) fn explicit(&self, leaf: u64) -> Option<&Puts> {
        self.leaves.get(&leaf).map(|puts| &**puts)
    }

    /// Whether something was put in single pages of these leaves.
    pub(crate) fn has_explicit(&self, leaves: &Range<u64>) -> bool {
        self.leaves.range(leaves.clone()).next().is_some()
    }

    /// Whether all of these leaves were zeroed as a whole, and whether any was.
    pub(crate) fn zeroed(&self, leaves: &Range<u64>) -> (bool, bool) {
        let last = self.zeroed.range(..leaves.end).next_back();
        let any = last.is_some_and(|(_, end)| *end > leaves.start);
        (any && last.is_some_and(|(start, end)| *start <= leaves.start && leaves.end <= *end), any)
    }

    /// What was put, counted once a page, of a memory of `pages` pages.
    pub(crate) fn counts(&self, pages: u64) -> Counts {
        let mut counts = Counts::default();
        let in_leaf = |leaf: u64| pages.saturating_sub(leaf * FANOUT).min(FANOUT);
        for (first, end) in &self.zeroed {
            let all = (end * FANOUT).min(pages) - (first * FANOUT).min(pages);
            let explicit: u64 = self.leaves.range(first..end).map(|(leaf, _)| in_leaf(*leaf)).sum();
            counts.pages += all - explicit;
            counts.zero += all - explicit;
        }
        for (leaf, puts) in &self.leaves {
            let real = usize::try_from(in_leaf(*leaf)).unwrap_or(puts.len());
            for put in &puts[..real] {
                counts.pages += u64::from(put.is_put());
                counts.zero += u64::from(*put == Put::Zero);
                counts.repeated += u64::from(matches!(put, Put::Repeated(_)));
                counts.unchanged +=
                    u64::from(matches!(put, Put::Unchanged | Put::Gathered { put: true, .. }));
                counts.gathered += u64::from(matches!(put, Put::Gathered { .. }));
            }
        }
        counts
    }

    /// The first page of a memory of `pages` pages that was not put, and how many were not.
    pub(crate) fn missing(&self, pages: u64) -> Option<(u64, u64)> {
        let missing = pages - self.counts(pages).pages;
        if missing == 0 {
            return None;
        }
        let mut leaf = 0;
        loop {
            let zeroed =
                self.zeroed.range(..=leaf).next_back().map(|(_, end)| *end).filter(|end| leaf < *end);
            match (self.leaves.get(&leaf), zeroed) {
                (Some(puts), _) => {
                    let hole = puts.iter().zip(leaf * FANOUT..pages).find(|(p, _)| **p == Put::Nothing);
                    if let Some((_, number)) = hole {
                        return Some((number, missing));
                    }
                    leaf += 1;
                }
                // To the end of what is zero, or to the next leaf that has pages.
                (None, Some(end)) => {
                    leaf = self.leaves.range(leaf..end).next().map_or(end, |(next, _)| *next);
                }
                (None, None) => return Some((leaf * FANOUT, missing)),
            }
        }
    }
}

/// Pages put, and pages stored again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) pages: u64,
    pub(crate) zero: u64,
    pub(crate) repeated: u64,
    pub(crate) unchanged: u64,
    /// Pages of the parent that were stored again, those included that were put unchanged.
    pub(crate) gathered: u64,
}
