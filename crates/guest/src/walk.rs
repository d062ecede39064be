//! The check of one writer's pages against its ledger, a few pages at a time.

use crate::certificate::Certificate;
use crate::config::Config;
use crate::damage::{Damage, DamageKind, Report};
use crate::memory::Load;
use crate::status::InFlight;

/// A check under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    writer: u64,
    in_flight: Option<InFlight>,
    next: u64,
    /// Sum over the ledger entries seen so far.
    pub(crate) sum: u64,
    /// The greatest of them.
    pub(crate) newest: u64,
    /// The newest device record that a certificate names.
    pub(crate) stamp: u64,
    /// The ledger entry of the page in flight.
    pub(crate) entry_in_flight: u64,
    /// Pages, lanes and disagreements so far.
    pub(crate) report: Report,
}

impl Walk {
    /// The beginning of a check of `writer`, who was stopped while it wrote `in_flight`.
    pub(crate) fn new(writer: u64, in_flight: Option<InFlight>) -> Self {
        let report = Report::default();
        Self { writer, in_flight, next: 0, sum: 0, newest: 0, stamp: 0, entry_in_flight: 0, report }
    }

    /// Checks up to `pages` more pages; true when none is left. After an error it goes on where it was.
    pub(crate) fn advance<L: Load>(
        &mut self,
        memory: &mut L,
        config: &Config,
        pages: u64,
    ) -> Result<bool, L::Error> {
        let end = config.pages.min(self.next.saturating_add(pages));
        while self.next < end {
            self.page(memory, config)?;
        }
        Ok(self.next == config.pages)
    }

    fn page<L: Load>(&mut self, memory: &mut L, config: &Config) -> Result<(), L::Error> {
        let page = self.next;
        let entry = memory.load(config.ledger_gpa(self.writer, page))?;
        let words = Certificate::load_words(memory, config.lane_gpa(self.writer, page))?;

        self.next += 1;
        self.sum = self.sum.wrapping_add(entry);
        self.newest = self.newest.max(entry);
        if self.in_flight.is_some_and(|in_flight| in_flight.page == page) {
            self.entry_in_flight = entry;
        }
        self.report.pages += 1;
        if let Some(certificate) = Certificate::from_words(&words) {
            self.report.lanes += 1;
            self.stamp = self.stamp.max(certificate.stamp);
        }
        if let Some(damage) = self.judge(config, page, entry, &words) {
            self.report.add(damage);
        }
        Ok(())
    }

    /// Whether a lane may hold `words` while the ledger holds `entry`.
    fn judge(&self, config: &Config, page: u64, entry: u64, words: &[u64; 7]) -> Option<Damage> {
        if let Some(in_flight) = self.in_flight.filter(|in_flight| in_flight.page == page)
            && entry != in_flight.sequence
        {
            // The ledger entry is stored after the certificate: until then it is the previous one.
            let InFlight { sequence, previous, .. } = in_flight;
            if entry > sequence {
                return self.damage(
                    DamageKind::StatusBehind,
                    config.status_gpa(self.writer),
                    config,
                    entry,
                    sequence,
                );
            }
            if entry != previous {
                return self.damage(
                    DamageKind::LedgerBehind,
                    config.ledger_gpa(self.writer, page),
                    config,
                    previous,
                    entry,
                );
            }
            if self.half_written(config, page, in_flight, words) {
                return None;
            }
        }
        self.settled(config, page, entry, words)
    }

    /// Whether a write of `in_flight` can have been cut so that it left `words`, with the sequence number stored or,
    /// in a page's first write, not yet.
    fn half_written(&self, config: &Config, page: u64, in_flight: InFlight, words: &[u64; 7]) -> bool {
        let InFlight { sequence, previous, .. } = in_flight;
        let seed = config.seed;
        let new =
            Certificate { gfn: config.gfn(page), writer: self.writer, seed, sequence, stamp: 0 }.to_words();
        if words[4] == sequence {
            return words[..4] == new[..4];
        }
        let stored = words.iter().zip(&new).take(4).take_while(|(word, new)| word == new).count();
        previous == 0 && words[stored..].iter().all(|&word| word == 0)
    }

    /// Whether a lane that nobody is writing may hold `words`.
    fn settled(&self, config: &Config, page: u64, entry: u64, words: &[u64; 7]) -> Option<Damage> {
        let at = config.hot + page * config.page_size;
        if words.iter().all(|&word| word == 0) {
            let lost = entry != 0;
            return if lost { self.damage(DamageKind::PageBehind, at, config, entry, 0) } else { None };
        }
        let Some(found) = Certificate::from_words(words) else {
            let &[_, gfn, writer, seed, sequence, stamp, checksum] = words;
            let fitting = Certificate { gfn, writer, seed, sequence, stamp }.to_words()[6];
            return self.damage(DamageKind::PageCorrupt, at, config, fitting, checksum);
        };
        if found.gfn != config.gfn(page) {
            return self.damage(DamageKind::PageMisplaced, at, config, config.gfn(page), found.gfn);
        }
        if found.seed != config.seed {
            return self.damage(DamageKind::PageForeign, at, config, config.seed, found.seed);
        }
        if found.writer != self.writer {
            return self.damage(DamageKind::PageForeign, at, config, self.writer, found.writer);
        }
        if found.sequence < entry {
            return self.damage(DamageKind::PageBehind, at, config, entry, found.sequence);
        }
        if found.sequence > entry {
            let ledger = config.ledger_gpa(self.writer, page);
            return self.damage(DamageKind::LedgerBehind, ledger, config, found.sequence, entry);
        }
        None
    }

    fn damage(
        &self,
        kind: DamageKind,
        gpa: u64,
        config: &Config,
        expected: u64,
        seen: u64,
    ) -> Option<Damage> {
        Some(Damage { kind, gfn: config.gfn_of(gpa), writer: self.writer, expected, seen })
    }
}
