//! Where the writer has put each page so far.

use ringmark_dirty::SlotId;

use crate::Layout;
use crate::index::{Index, Run, ZERO};

/// Pages of a chunk: what is allocated when the first of them is put.
const CHUNK: u32 = 512;

/// The extent of a page that was not put.
const NONE: u32 = u32::MAX - 1;

/// The most extents of a pack: larger numbers mean something else.
pub(crate) const MAX_EXTENTS: u32 = NONE;

#[derive(Clone, Copy)]
struct Place {
    extent: u32,
    /// Pages of the extent before the page.
    skip: u32,
    hash: u64,
}

const EMPTY: Place = Place { extent: NONE, skip: 0, hash: 0 };
const ZEROED: Place = Place { extent: ZERO, skip: 0, hash: 0 };

/// The places of 512 pages; the two common cases need no memory of their own.
#[derive(Default)]
struct Chunk {
    /// What holds without `places`: all pages are zero, or none was put.
    zero: bool,
    places: Option<Box<[Place; CHUNK as usize]>>,
}

impl Chunk {
    /// The places, to be changed.
    fn places(&mut self) -> &mut [Place; CHUNK as usize] {
        let zero = self.zero;
        self.places.get_or_insert_with(|| Box::new([if zero { ZEROED } else { EMPTY }; CHUNK as usize]))
    }
}

struct Slot {
    id: SlotId,
    npages: u32,
    chunks: Vec<Chunk>,
}

/// For every page that was put, the place of its last put. Sixteen bytes a page, allocated by chunks; long runs of
/// zero pages, and pages that were not put, cost sixteen bytes a chunk.
pub(crate) struct PageTable {
    slots: Vec<Slot>,
    superseded: u64,
    superseded_stored: u64,
}

impl PageTable {
    #[allow(clippy::cast_possible_truncation, reason = "a memslot has fewer than 2^31 pages")]
    pub(crate) fn new(layout: &Layout) -> Self {
        let slots = layout.slots().iter().map(|s| {
            let mut chunks = Vec::new();
            let npages = s.npages as u32;
            chunks.resize_with(npages.div_ceil(CHUNK) as usize, Chunk::default);
            Slot { id: s.id, npages, chunks }
        });
        Self { slots: slots.collect(), superseded: 0, superseded_stored: 0 }
    }

    /// Page `offset` of `slot` is now the one after the first `skip` of `extent`. Both were checked by the writer.
    pub(crate) fn put(&mut self, slot: SlotId, offset: u64, extent: u32, skip: u32, hash: u64) {
        self.set(slot, offset, Place { extent, skip, hash });
    }

    fn set(&mut self, slot: SlotId, offset: u64, new: Place) {
        let Ok(slot) = self.slots.binary_search_by_key(&slot, |s| s.id) else { return };
        let Ok(offset) = u32::try_from(offset) else { return };
        let Some(chunk) = self.slots[slot].chunks.get_mut((offset / CHUNK) as usize) else { return };
        let place = &mut chunk.places()[(offset % CHUNK) as usize];
        if place.extent != NONE {
            self.superseded += 1;
            self.superseded_stored += u64::from(place.extent != ZERO);
        }
        *place = new;
    }

    /// `npages` pages from `first` of `slot` on are now zero. They were checked by the writer.
    pub(crate) fn put_zero(&mut self, slot: SlotId, first: u64, npages: u64) {
        let size = u64::from(CHUNK);
        let end = first + npages;
        let mut page = first;
        while page < end {
            if page.is_multiple_of(size) && end - page >= size {
                self.zero_chunk(slot, page / size);
                page += size;
            } else {
                self.set(slot, page, ZEROED);
                page += 1;
            }
        }
    }

    fn zero_chunk(&mut self, slot: SlotId, number: u64) {
        let Ok(slot) = self.slots.binary_search_by_key(&slot, |s| s.id) else { return };
        let Ok(number) = usize::try_from(number) else { return };
        let Some(chunk) = self.slots[slot].chunks.get_mut(number) else { return };
        match std::mem::replace(chunk, Chunk { zero: true, places: None }) {
            Chunk { places: Some(places), .. } => {
                for place in places.iter().filter(|p| p.extent != NONE) {
                    self.superseded += 1;
                    self.superseded_stored += u64::from(place.extent != ZERO);
                }
            }
            Chunk { zero: true, places: None } => self.superseded += u64::from(CHUNK),
            Chunk { zero: false, places: None } => {}
        }
    }

    /// How often a page was put again.
    pub(crate) const fn superseded(&self) -> u64 {
        self.superseded
    }

    /// How often the contents put before had taken space in the pack.
    pub(crate) const fn superseded_stored(&self) -> u64 {
        self.superseded_stored
    }

    /// The first page that was never put, and how many there are.
    pub(crate) fn missing(&self) -> Option<(SlotId, u64, u64)> {
        let mut first = None;
        let mut missing = 0;
        for slot in &self.slots {
            let mut offset: u64 = 0;
            let end = u64::from(slot.npages);
            for chunk in &slot.chunks {
                let len = (end - offset).min(CHUNK.into());
                let hole = match &chunk.places {
                    None => (!chunk.zero).then_some((0, len)),
                    Some(places) => {
                        let holes = || (0..len).zip(places.iter()).filter(|(_, p)| p.extent == NONE);
                        holes().next().map(|(i, _)| (i, holes().count() as u64))
                    }
                };
                if let Some((at, count)) = hole {
                    first.get_or_insert((slot.id, offset + at));
                    missing += count;
                }
                offset += len;
            }
        }
        first.map(|(slot, offset)| (slot, offset, missing))
    }

    /// The runs and the hashes of an index; its extents are left to the caller.
    pub(crate) fn into_index(self) -> Index {
        let mut index = Index::default();
        for slot in self.slots {
            let mut first: u32 = 0;
            for chunk in slot.chunks {
                if let Some(places) = chunk.places {
                    for (page, place) in (first..slot.npages).zip(places.iter()) {
                        if place.extent != NONE {
                            push(&mut index, slot.id.raw(), page, 1, *place);
                        }
                    }
                } else if chunk.zero {
                    push(&mut index, slot.id.raw(), first, CHUNK, ZEROED);
                }
                first = first.saturating_add(CHUNK);
            }
        }
        index
    }
}

/// Adds `npages` pages behind all others of `index`; only zero pages come in numbers.
fn push(index: &mut Index, slot: u32, page: u32, npages: u32, place: Place) {
    let hash = index.hashes.len() as u64;
    if place.extent != ZERO {
        index.hashes.push(place.hash);
    }
    if let Some(run) = index.runs.last_mut() {
        let adjacent = run.slot == slot && run.first + run.npages == page && run.extent == place.extent;
        if adjacent && (place.extent == ZERO || run.skip + run.npages == place.skip) {
            run.npages += npages;
            return;
        }
    }
    index.runs.push(Run { slot, first: page, npages, extent: place.extent, skip: place.skip, hash });
}
