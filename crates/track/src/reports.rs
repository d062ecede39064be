//! Which source reported each page last.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmark_dirty::{DirtyPages, SlotId, SlotTable};

use crate::{Method, SourceKind};

/// Who reported a page last, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LastReport {
    /// The source.
    pub source: SourceKind,
    /// The way of tracking, which says what [`SourceKind::Bitmap`] is.
    pub method: Method,
    /// Epochs since: 1 is the epoch before the one that is open.
    pub epochs_ago: u64,
    /// Whether it was longer ago than can be said, and `epochs_ago` is the least.
    pub or_more: bool,
}

impl fmt::Display for LastReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, method, epochs_ago, or_more } = *self;
        let name = name(source, method);
        match epochs_ago {
            0 => write!(f, "the {name} in the same epoch"),
            1 if !or_more => write!(f, "the {name} in the epoch before"),
            _ => write!(f, "the {name} {epochs_ago} epochs ago{}", if or_more { " or earlier" } else { "" }),
        }
    }
}

/// What a source is called under a way of tracking.
const fn name(source: SourceKind, method: Method) -> &'static str {
    match (source, method) {
        (SourceKind::Ring, _) => "dirty rings",
        (SourceKind::Bitmap, Method::Bitmap) => "stand-alone bitmap",
        (SourceKind::Bitmap, _) => "backup bitmap",
        (SourceKind::Other, _) => "source of the monitor's author",
        (SourceKind::Monitor, _) => "monitor's own writes",
    }
}

/// Some kinds of sources, and the way of tracking that names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sources {
    /// Bit n for the kind whose discriminant is n.
    kinds: u8,
    method: Method,
}

impl Sources {
    /// No source.
    pub(crate) const NONE: Self = Self { kinds: 0, method: Method::Bitmap };

    pub(crate) fn new(kinds: impl IntoIterator<Item = SourceKind>, method: Method) -> Self {
        Self { kinds: kinds.into_iter().fold(0, |kinds, kind| kinds | 1 << kind as u8), method }
    }

    /// The kinds, in the order in which they are sealed.
    pub fn iter(self) -> impl Iterator<Item = SourceKind> {
        SourceKind::ALL.into_iter().filter(move |&kind| self.contains(kind))
    }

    /// Whether `kind` is one of them.
    #[must_use]
    pub const fn contains(self, kind: SourceKind) -> bool {
        self.kinds & 1 << kind as u8 != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.kinds == 0
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, kind) in self.iter().enumerate() {
            write!(f, "{}the {}", if at == 0 { "" } else { ", " }, name(kind, self.method))?;
        }
        Ok(())
    }
}

/// Which source reported each page last: two bytes a page, kept by a tracker that was asked to
/// [remember](crate::Tracker::remember_reports), and read by an [`Audit`](crate::Audit) to say who ought to have seen a
/// page that escaped.
///
/// Suspects, pages that were reported because of an [`Event`](crate::Event), leave no trace here: nobody saw them written.
#[derive(Clone, Debug)]
pub struct Reports {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    method: Method,
    /// The kinds of all sources.
    kinds: Sources,
    /// Epochs that were opened.
    epoch: u64,
    /// The epoch that a [`Mark`] counts from.
    base: u64,
    slots: Vec<(SlotId, Vec<Mark>)>,
}

/// 0 for a page that nobody reported; else one more than the kind in the lower [`Mark::KIND_BITS`], and the epoch above
/// them, counted from [`Inner::base`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark(u16);

impl Mark {
    const KIND_BITS: u32 = 3;
    /// The last epoch that can be told from the base.
    const LAST: u64 = (1 << (u16::BITS - Self::KIND_BITS)) - 1;

    /// `None` where the epoch is too far from the base.
    fn new(kind: SourceKind, epoch: u64) -> Option<Self> {
        let epoch = u16::try_from(epoch).ok().filter(|&epoch| u64::from(epoch) <= Self::LAST)?;
        Some(Self(epoch << Self::KIND_BITS | (kind as u16 + 1)))
    }

    fn kind(self) -> Option<SourceKind> {
        let kind = usize::from(self.0 & ((1 << Self::KIND_BITS) - 1));
        SourceKind::ALL.get(kind.checked_sub(1)?).copied()
    }

    const fn epoch(self) -> u64 {
        (self.0 >> Self::KIND_BITS) as u64
    }
}

impl Reports {
    pub(crate) fn new(
        slots: &SlotTable,
        method: Method,
        kinds: impl IntoIterator<Item = SourceKind>,
    ) -> Self {
        let marks = |npages| vec![Mark::default(); usize::try_from(npages).unwrap_or(usize::MAX)];
        let inner = Inner {
            method,
            kinds: Sources::new(kinds, method),
            epoch: 0,
            base: 0,
            slots: slots.iter().map(|slot| (slot.id, marks(slot.npages))).collect(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// An epoch was opened.
    pub(crate) fn begin_epoch(&self) {
        let mut inner = self.lock();
        inner.epoch += 1;
        if inner.epoch - inner.base > Mark::LAST {
            inner.rebase();
        }
    }

    /// `kind` reported `pages` in the open epoch.
    pub(crate) fn note(&self, kind: SourceKind, pages: &DirtyPages) {
        let mut inner = self.lock();
        let Some(mark) = Mark::new(kind, inner.epoch - inner.base) else { return };
        for (id, set) in pages.sets().filter(|(_, set)| !set.is_empty()) {
            let Some((_, marks)) = inner.slots.iter_mut().find(|(known, _)| *known == id) else { continue };
            for page in set.iter() {
                if let Some(place) = usize::try_from(page).ok().and_then(|page| marks.get_mut(page)) {
                    *place = mark;
                }
            }
        }
    }

    /// Who reported page `offset` of `slot` last.
    #[must_use]
    pub fn last(&self, slot: SlotId, offset: u64) -> Option<LastReport> {
        let inner = self.lock();
        let (_, marks) = inner.slots.iter().find(|(id, _)| *id == slot)?;
        let mark = *marks.get(usize::try_from(offset).ok()?)?;
        Some(LastReport {
            source: mark.kind()?,
            method: inner.method,
            epochs_ago: inner.epoch - inner.base - mark.epoch(),
            or_more: mark.epoch() == 0 && inner.base > 0,
        })
    }

    /// Which sources ought to have seen a write to a page with this `last` report.
    pub(crate) fn ought(&self, last: Option<LastReport>) -> Sources {
        match last {
            Some(last) => Sources::new([last.source], last.method),
            None => self.lock().kinds,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic leaves marks that are marks, if older ones.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Counts from a later epoch; what was longer ago counts as having been then.
    fn rebase(&mut self) {
        let by = Mark::LAST / 2 + 1;
        self.base += by;
        for mark in self.slots.iter_mut().flat_map(|(_, marks)| marks) {
            let moved = mark.kind().and_then(|kind| Mark::new(kind, mark.epoch().saturating_sub(by)));
            *mark = moved.unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use ringmark_dirty::{Gfn, Memslot};

    use super::*;

    const SLOT: SlotId = SlotId::new(0, 3);

    fn reports() -> (Reports, SlotTable) {
        let slots = SlotTable::new([Memslot { id: SLOT, base: Gfn(0), npages: 4 }]).unwrap();
        let method = Method::RingWithBitmap { entries: 4096 };
        let kinds = [SourceKind::Ring, SourceKind::Bitmap, SourceKind::Monitor];
        (Reports::new(&slots, method, kinds), slots)
    }

    #[test]
    fn the_last_report_of_a_page_counts() {
        let (reports, slots) = reports();
        let mut pages = DirtyPages::new(&slots);
        pages.insert(SLOT, 2).unwrap();
        reports.begin_epoch();
        reports.note(SourceKind::Ring, &pages);
        reports.note(SourceKind::Bitmap, &pages);
        reports.begin_epoch();
        let last = reports.last(SLOT, 2).unwrap();
        assert_eq!(last.to_string(), "the backup bitmap in the epoch before");
        assert_eq!(reports.ought(Some(last)).to_string(), "the backup bitmap");
        assert_eq!(reports.last(SLOT, 1), None);
        assert_eq!(reports.last(SLOT, 4), None, "past the end");
        assert_eq!(
            reports.ought(None).to_string(),
            "the dirty rings, the backup bitmap, the monitor's own writes"
        );
    }

    #[test]
    fn what_was_long_ago_is_said_to_be_at_least_that_long() {
        let (reports, slots) = reports();
        let mut pages = DirtyPages::new(&slots);
        pages.insert(SLOT, 0).unwrap();
        reports.begin_epoch();
        reports.note(SourceKind::Ring, &pages);
        let mut recent = DirtyPages::new(&slots);
        recent.insert(SLOT, 1).unwrap();
        for _ in 0..3 * Mark::LAST {
            reports.begin_epoch();
        }
        reports.note(SourceKind::Monitor, &recent);
        for _ in 0..3 {
            reports.begin_epoch();
        }
        let last = reports.last(SLOT, 0).unwrap();
        assert_eq!((last.source, last.or_more), (SourceKind::Ring, true));
        assert!((Mark::LAST / 2..=3 * Mark::LAST).contains(&last.epochs_ago), "{last}");
        assert_eq!(reports.last(SLOT, 1).unwrap().to_string(), "the monitor's own writes 3 epochs ago");
    }
}
