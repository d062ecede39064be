//! A picture of guest memory that shows where pages changed.

mod png;
mod svg;
mod text;

use ringmark_dirty::SlotId;
use ringmark_image::Layout;

use crate::diff::Run;

/// Guest memory as a grid of cells, each of some pages, with how many of them changed.
///
/// Memslots come in the order of their addresses and each begins a row. Columns and the pages of a cell are powers of
/// two, so that rows begin at round addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heat {
    columns: usize,
    pages_per_cell: u64,
    page_bytes: u64,
    bands: Vec<Band>,
}

/// One memslot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Band {
    slot: SlotId,
    /// First guest-physical address.
    start: u64,
    pages: u64,
    /// Changed pages of each cell.
    changed: Vec<u64>,
}

impl Heat {
    /// The grid of `layout` with the pages of `runs` changed, at most `columns` wide, and of at most `rows` rows unless
    /// there are more memslots.
    #[must_use]
    pub fn new(layout: &Layout, runs: &[Run], columns: usize, rows: usize) -> Self {
        let columns = 1 << columns.max(1).ilog2();
        let page_size = layout.page_size();
        let mut slots: Vec<_> = layout.slots().iter().collect();
        slots.sort_by_key(|slot| slot.base);
        let rows = (rows.max(slots.len())) as u64;
        let needed =
            |cell: u64| -> u64 { slots.iter().map(|s| s.npages.div_ceil(cell * columns as u64)).sum() };
        let mut pages_per_cell = 1;
        while needed(pages_per_cell) > rows {
            pages_per_cell *= 2;
        }
        let bands = slots.iter().map(|slot| {
            let mut changed =
                vec![0; usize::try_from(slot.npages.div_ceil(pages_per_cell)).unwrap_or_default()];
            for run in runs.iter().filter(|run| run.slot == slot.id) {
                count(&mut changed, run.first, run.pages, pages_per_cell);
            }
            let start = slot.base.0 << page_size.shift();
            Band { slot: slot.id, start, pages: slot.npages, changed }
        });
        Self { columns, pages_per_cell, page_bytes: page_size.bytes(), bands: bands.collect() }
    }

    /// Bytes of guest memory that a cell stands for.
    #[must_use]
    pub fn cell_bytes(&self) -> u64 {
        self.pages_per_cell * self.page_bytes
    }

    /// Bytes of guest memory in a row.
    fn row_bytes(&self) -> u64 {
        self.cell_bytes() * self.columns as u64
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.bands.iter().flat_map(move |band| {
            band.changed.chunks(self.columns).enumerate().map(move |(index, changed)| Row {
                slot: band.slot,
                first: index == 0,
                start: band.start + index as u64 * self.row_bytes(),
                changed,
                pages: {
                    let before = (index * self.columns) as u64 * self.pages_per_cell;
                    let left = band.pages - before;
                    let per_cell = self.pages_per_cell;
                    (0..changed.len() as u64).map(move |cell| per_cell.min(left - cell * per_cell)).collect()
                },
            })
        })
    }
}

/// One row of the grid.
struct Row<'a> {
    slot: SlotId,
    /// Whether it is the first of its memslot.
    first: bool,
    /// Guest-physical address.
    start: u64,
    /// Changed pages of each cell.
    changed: &'a [u64],
    /// Pages of each cell; the last of a memslot may have fewer than the others.
    pages: Vec<u64>,
}

impl Row<'_> {
    /// How much of each cell changed.
    fn levels(&self) -> impl Iterator<Item = Level> {
        self.changed.iter().zip(&self.pages).map(|(changed, pages)| Level::of(*changed, *pages))
    }
}

/// How much of a cell changed, in quarters rounded up: a single page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    None,
    Quarter,
    Half,
    Most,
    All,
}

impl Level {
    const EVERY: [Self; 5] = [Self::None, Self::Quarter, Self::Half, Self::Most, Self::All];

    fn of(changed: u64, pages: u64) -> Self {
        match (changed.saturating_mul(4)).div_ceil(pages.max(1)) {
            0 => Self::None,
            1 => Self::Quarter,
            2 => Self::Half,
            3 => Self::Most,
            _ => Self::All,
        }
    }

    /// Red, green and blue.
    const fn colour(self) -> [u8; 3] {
        match self {
            Self::None => [0x26, 0x2b, 0x36],
            Self::Quarter => [0x6a, 0x2c, 0x70],
            Self::Half => [0xb8, 0x3b, 0x5e],
            Self::Most => [0xf0, 0x8a, 0x5d],
            Self::All => [0xf9, 0xed, 0x69],
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::None => "unchanged",
            Self::Quarter => "up to 1/4 of the pages changed",
            Self::Half => "up to 1/2",
            Self::Most => "up to 3/4",
            Self::All => "more",
        }
    }
}

/// Adds `pages` pages from `first` on to the cells that they are in.
fn count(cells: &mut [u64], first: u64, pages: u64, per_cell: u64) {
    let end = first + pages;
    let mut page = first;
    while page < end {
        let cell = page / per_cell;
        let next = end.min((cell + 1) * per_cell);
        if let Some(cell) = usize::try_from(cell).ok().and_then(|cell| cells.get_mut(cell)) {
            *cell += next - page;
        }
        page = next;
    }
}
