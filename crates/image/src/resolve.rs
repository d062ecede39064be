//! Which layer of a chain holds which page.

use crate::index::{Run, ZERO};

/// Consecutive pages of a memslot that one layer holds side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Position of the layer in the chain; 0 is the image itself.
    pub(crate) layer: u32,
    pub(crate) run: Run,
}

/// Memslot and page as one number; a memslot has fewer than 2^31 pages.
pub(crate) const fn position(slot: u32, page: u32) -> u64 {
    (slot as u64) << 32 | page as u64
}

impl Piece {
    pub(crate) const fn start(&self) -> u64 {
        position(self.run.slot, self.run.first)
    }

    pub(crate) const fn end(&self) -> u64 {
        self.start() + self.run.npages as u64
    }

    /// The pages of the piece from `start` to `end`, which lie within it.
    #[allow(clippy::cast_possible_truncation, reason = "differences within a run are less than 2^31")]
    pub(crate) fn cut(&self, start: u64, end: u64) -> Self {
        let before = (start - self.start()) as u32;
        let mut run = self.run;
        run.first += before;
        run.npages = (end - start) as u32;
        if run.extent != ZERO {
            run.skip += before;
            run.hash += u64::from(before);
        }
        Self { layer: self.layer, run }
    }
}

/// The pages of a chain whose layers hold `layers`, the newest first; each in the order of its position. Takes
/// O(n log layers) for n runs in all.
pub(crate) fn resolve(layers: &[&[Run]]) -> Vec<Piece> {
    fn between(layers: &[&[Run]], first: u32) -> Vec<Piece> {
        match layers {
            [] => Vec::new(),
            [runs] => runs.iter().map(|run| Piece { layer: first, run: *run }).collect(),
            _ => {
                let (newer, older) = layers.split_at(layers.len() / 2);
                #[allow(clippy::cast_possible_truncation, reason = "a chain has fewer than 2^32 layers")]
                let second = first + newer.len() as u32;
                overlay(between(newer, first), &between(older, second))
            }
        }
    }
    between(layers, 0)
}

/// `newer`, and of `older` what it leaves uncovered.
fn overlay(newer: Vec<Piece>, older: &[Piece]) -> Vec<Piece> {
    let mut all = newer;
    let covered = all.len();
    let mut next = 0;
    for piece in older {
        while next < covered && all[next].end() <= piece.start() {
            next += 1;
        }
        let mut from = piece.start();
        let mut over = next;
        while over < covered && all[over].start() < piece.end() {
            let (start, end) = (all[over].start(), all[over].end());
            if start > from {
                all.push(piece.cut(from, start));
            }
            from = end;
            over += 1;
        }
        if from < piece.end() {
            all.push(piece.cut(from, piece.end()));
        }
    }
    // Two ascending stretches one behind the other: the standard library's sort merges them in one pass.
    all.sort_by_key(Piece::start);
    all
}

/// The piece that holds `page` of `slot`.
pub(crate) fn find(pieces: &[Piece], slot: u32, page: u32) -> Option<&Piece> {
    let at = position(slot, page);
    let behind = pieces.partition_point(|p| p.start() <= at);
    pieces.get(behind.checked_sub(1)?).filter(|p| at < p.end())
}
