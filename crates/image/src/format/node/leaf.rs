//! A node that says where sixty-four pages are.
//!
//! Level `u8` (zero), runs `u8`, six zero bytes; then forty bytes a run; then eight bytes for each page of each run: the
//! page's hash, or the word that it repeats. A page in no run is zero. A run is:
//!
//! first page `u8`, pages `u8`, encoding `u8` (1 raw, 2 zstd, 3 repeated word), pages of the extent before the run `u8`,
//! pages of the extent `u8`, three zero bytes, pack `u32`, length `u32`, offset `u64`, and sixteen bytes of the BLAKE3
//! of the extent as it is stored. Of a run of repeated words all fields behind the encoding are zero.

use std::sync::Arc;

use super::{Encoding, Extent, FANOUT, hash_at, u32_at, u64_at};

const HEAD: usize = 8;
const RUN: usize = 40;
const REPEATED: u8 = 3;

/// Where the contents of a page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Zero,
    Repeated(u64),
    Stored { extent: Extent, skip: u8, hash: u64 },
}

/// Consecutive pages of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u8,
    pub(crate) pages: u8,
    pub(crate) kind: RunKind,
    /// Position of the words of its pages among those of the leaf.
    word: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunKind {
    Repeated,
    /// In an extent, behind `skip` of its pages.
    Stored {
        extent: Extent,
        skip: u8,
    },
}

impl Run {
    /// The pages of the run from `first` to `end`, both of the leaf, if there are any.
    pub(crate) fn cut(&self, first: u8, end: u8) -> Option<Self> {
        let (from, to) = (self.first.max(first), (self.first + self.pages).min(end));
        if from >= to {
            return None;
        }
        let before = from - self.first;
        let kind = match self.kind {
            RunKind::Repeated => RunKind::Repeated,
            RunKind::Stored { extent, skip } => RunKind::Stored { extent, skip: skip + before },
        };
        Some(Self { first: from, pages: to - from, kind, word: self.word + usize::from(before) })
    }
}

/// A leaf, checked.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    bytes: Arc<[u8]>,
}

impl Leaf {
    pub(super) fn decode(bytes: Arc<[u8]>) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("a leaf of the index {what}"));
        if bytes.len() < HEAD || bytes[2..HEAD] != [0; 6] {
            return wrong("has no head");
        }
        let runs = usize::from(bytes[1]);
        let Some(body) = bytes.get(HEAD..HEAD + runs * RUN) else {
            return wrong("ends within its runs");
        };
        let mut end = 0;
        let mut words = 0;
        for run in body.chunks_exact(RUN) {
            let [first, pages, code, skip, full] = [run[0], run[1], run[2], run[3], run[4]];
            let ordered = first >= end && pages > 0;
            let Some(next) = first.checked_add(pages).filter(|n| ordered && u64::from(*n) <= FANOUT) else {
                return wrong("has runs that overlap, are out of order, or end past it");
            };
            end = next;
            words += usize::from(pages);
            let known = if code == REPEATED {
                run[3..] == [0; RUN - 3]
            } else {
                Encoding::from_code(code).is_some()
                    && u64::from(full) <= FANOUT
                    && u16::from(skip) + u16::from(pages) <= u16::from(full)
                    && run[5..8] == [0; 3]
                    && u32_at(run, 12) != 0
            };
            if !known {
                return wrong("has a run that is not within an extent");
            }
        }
        if runs == 0 || bytes.len() != HEAD + runs * RUN + words * 8 {
            return wrong("has another length than its runs need");
        }
        let leaf = Self { bytes };
        for run in leaf.runs().filter(|r| r.kind == RunKind::Repeated) {
            if (0..run.pages).any(|i| leaf.word(&run, i) == 0) {
                return wrong("records a zero page");
            }
        }
        Ok(leaf)
    }

    /// The bytes of a leaf of these pages; `None` if all are zero.
    pub(crate) fn encode(places: &[Place; 64]) -> Option<Vec<u8>> {
        let mut runs: Vec<[u8; RUN]> = Vec::new();
        let mut words = Vec::with_capacity(places.len() * 8);
        let mut before = None;
        for (page, place) in (0u8..).zip(places) {
            let (new, word) = match *place {
                Place::Zero => {
                    before = None;
                    continue;
                }
                Place::Repeated(word) => (record(page, REPEATED), word),
                Place::Stored { extent, skip, hash } => (stored(page, &extent, skip), hash),
            };
            words.extend_from_slice(&word.to_le_bytes());
            match runs.last_mut() {
                Some(last) if before == Some(page) && continues(last, &new) => last[1] += 1,
                _ => runs.push(new),
            }
            before = Some(page + 1);
        }
        let count = u8::try_from(runs.len()).ok().filter(|n| *n > 0)?;
        let mut out = Vec::with_capacity(HEAD + runs.len() * RUN + words.len());
        out.extend_from_slice(&[0, count, 0, 0, 0, 0, 0, 0]);
        runs.iter().for_each(|run| out.extend_from_slice(run));
        out.extend_from_slice(&words);
        Some(out)
    }

    /// The runs in the order of their pages.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Run> {
        let mut word = 0;
        let end = HEAD + usize::from(self.bytes[1]) * RUN;
        self.bytes[HEAD..end].chunks_exact(RUN).map(move |run| {
            let kind = match Encoding::from_code(run[2]) {
                None => RunKind::Repeated,
                Some(encoding) => RunKind::Stored {
                    extent: Extent {
                        pack: u32_at(run, 8),
                        len: u32_at(run, 12),
                        offset: u64_at(run, 16),
                        pages: run[4],
                        encoding,
                        hash: hash_at(run, 24),
                    },
                    skip: run[3],
                },
            };
            let run = Run { first: run[0], pages: run[1], kind, word };
            word += usize::from(run.pages);
            run
        })
    }

    /// The hash of page `i` of `run`, or the word that it repeats.
    pub(crate) fn word(&self, run: &Run, i: u8) -> u64 {
        let words = HEAD + usize::from(self.bytes[1]) * RUN;
        u64_at(&self.bytes, words + 8 * (run.word + usize::from(i)))
    }

    /// Where page `page`, less than sixty-four, is.
    pub(crate) fn place(&self, page: u8) -> Place {
        let run = self.runs().find(|r| (r.first..r.first + r.pages).contains(&page));
        run.map_or(Place::Zero, |run| self.place_in(&run, page - run.first))
    }

    /// Where all pages are.
    pub(crate) fn places(&self) -> [Place; 64] {
        let mut places = [Place::Zero; 64];
        for run in self.runs() {
            for i in 0..run.pages {
                places[usize::from(run.first + i)] = self.place_in(&run, i);
            }
        }
        places
    }

    fn place_in(&self, run: &Run, i: u8) -> Place {
        let word = self.word(run, i);
        match run.kind {
            RunKind::Repeated => Place::Repeated(word),
            RunKind::Stored { extent, skip } => Place::Stored { extent, skip: skip + i, hash: word },
        }
    }

    pub(crate) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }
}

fn record(page: u8, code: u8) -> [u8; RUN] {
    let mut run = [0; RUN];
    run[..3].copy_from_slice(&[page, 1, code]);
    run
}

fn stored(page: u8, extent: &Extent, skip: u8) -> [u8; RUN] {
    let mut run = record(page, extent.encoding.code());
    run[3] = skip;
    run[4] = extent.pages;
    run[8..12].copy_from_slice(&extent.pack.to_le_bytes());
    run[12..16].copy_from_slice(&extent.len.to_le_bytes());
    run[16..24].copy_from_slice(&extent.offset.to_le_bytes());
    run[24..].copy_from_slice(&extent.hash);
    run
}

/// Whether `new`, of the page behind `last`, is the next of the same extent, or of words too.
fn continues(last: &[u8; RUN], new: &[u8; RUN]) -> bool {
    let next = if new[2] == REPEATED { 0 } else { last[3] + last[1] };
    last[2] == new[2] && next == new[3] && last[4..] == new[4..]
}
