//! What a case works with: the target, and how strictly its answers are read.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Facts;
use crate::target::{Kicker, Target, Wish};
use crate::verdict::{Mismatch, Stop, Verdict};

/// A page as a ring entry names it: the raw `slot` field and the offset.
pub(crate) type Logged = (u32, u64);

/// What a case works with.
#[derive(Debug)]
pub(crate) struct Bench {
    target: Arc<dyn Target>,
    watch: Arc<Watch>,
    notes: Mutex<Vec<String>>,
}

impl Bench {
    pub(crate) fn new(target: Arc<dyn Target>, watch: Arc<Watch>) -> Self {
        Self { target, watch, notes: Mutex::default() }
    }

    pub(crate) fn facts(&self) -> &Facts {
        self.target.facts()
    }

    pub(crate) fn target(&self) -> &dyn Target {
        &*self.target
    }

    pub(crate) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Over-reports that were tolerated.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.notes))
    }

    /// A fact for the report's detail.
    pub(crate) fn note(&self, note: String) {
        lock(&self.notes).push(note);
    }

    /// A rig of a VM as the target makes it.
    pub(crate) fn vm(&self) -> Result<crate::rig::Rig, Stop> {
        self.wished(Wish::default())
    }

    /// A rig of a VM of a particular kernel.
    pub(crate) fn wished(&self, wish: Wish) -> Result<crate::rig::Rig, Stop> {
        crate::rig::Rig::new(self, wish)
    }

    /// A rig with rings of `entries`, or of the smallest size the kernel accepts if that is larger.
    pub(crate) fn ring(&self, entries: u32) -> Result<crate::rig::Rig, Stop> {
        let rig = self.vm()?;
        rig.enable_ring(entries.max(self.facts().smallest_ring()))?;
        Ok(rig)
    }

    /// A rig with rings of `entries` at least and the backup bitmap.
    pub(crate) fn ring_with_bitmap(&self, entries: u32) -> Result<crate::rig::Rig, Stop> {
        let rig = self.ring(entries)?;
        rig.enable_bitmap()?;
        Ok(rig)
    }

    /// Rings, with the backup bitmap where there is one: how a monitor should set a VM up.
    pub(crate) fn best(&self, entries: u32) -> Result<crate::rig::Rig, Stop> {
        if self.facts().with_bitmap { self.ring_with_bitmap(entries) } else { self.ring(entries) }
    }

    /// The entries of a ring are `want`, in this order. A real kernel may log more (and says so in the report), never
    /// less.
    pub(crate) fn entries(&self, what: &str, got: &[Logged], want: &[Logged]) -> Verdict {
        let mut rest = got.iter();
        let all = want.iter().all(|wanted| rest.any(|entry| entry == wanted));
        self.judge(what, got == want, all, got, want)
    }

    /// The set bits of a bitmap are `want`, ascending. A real kernel may set more, never less.
    pub(crate) fn bits(&self, what: &str, words: &[u64], want: &[u64]) -> Verdict {
        let got = set_bits(words);
        let all = want.iter().all(|page| got.binary_search(page).is_ok());
        self.judge(what, got == want, all, &got[..], want)
    }

    /// A count of reported pages is `want`; on a real kernel at least that.
    pub(crate) fn count(&self, what: &str, got: u64, want: u64) -> Verdict {
        self.judge(what, got == want, got >= want, &got, &want)
    }

    fn judge<T: Debug + ?Sized>(&self, what: &str, exact: bool, covers: bool, got: &T, want: &T) -> Verdict {
        if exact {
            return Ok(());
        }
        let (expected, observed) = (brief(want), brief(got));
        if covers && self.facts().real {
            self.note(format!("{what}: over-reported, which is legal: {observed} for {expected}"));
            return Ok(());
        }
        Err(Stop::Mismatch(Mismatch { what: what.to_owned(), expected, observed }))
    }
}

/// The debug form of a list that may be long.
fn brief<T: Debug + ?Sized>(value: &T) -> String {
    const LIMIT: usize = 400;
    let text = format!("{value:?}");
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.len()),
        None => text,
    }
}

/// The numbers of the bits set in `words`, ascending.
pub(crate) fn set_bits(words: &[u64]) -> Vec<u64> {
    let mut bits = Vec::new();
    for (word, base) in words.iter().zip((0u64..).step_by(64)) {
        let mut rest = *word;
        while rest != 0 {
            bits.push(base + u64::from(rest.trailing_zeros()));
            rest &= rest - 1;
        }
    }
    bits
}

/// A lock whose holder cannot leave a half-made state behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a case that takes too long.
#[derive(Default)]
pub(crate) struct Watch {
    kickers: Mutex<Vec<Kicker>>,
    expired: AtomicBool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("expired", &self.expired()).finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn register(&self, kicker: Kicker) {
        lock(&self.kickers).push(kicker);
    }

    /// Whether the case's time is over; loops of cases ask.
    pub(crate) fn expired(&self) -> bool {
        self.expired.load(Ordering::Acquire)
    }

    /// Makes every vCPU of the case leave the guest and stay out.
    pub(crate) fn expire(&self) {
        self.expired.store(true, Ordering::Release);
        for kick in lock(&self.kickers).iter() {
            kick();
        }
    }
}
