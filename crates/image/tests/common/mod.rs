//! Memories to take images of, and disks that fail.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses its own part, and a test fails by panicking"
)]

pub mod faults;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_image::{Finished, Image, ImageId, ImageSpec, Layout, Store, WriteError, Writer};

/// A layout of slots given as base frame and pages.
pub fn layout(page: u64, slots: &[(u64, u64)]) -> Layout {
    let slots = slots.iter().zip(0..).map(|(&(base, npages), id)| Memslot {
        id: SlotId::new(0, id),
        base: Gfn(base),
        npages,
    });
    Layout::new(PageSize::new(page).unwrap(), SlotTable::new(slots).unwrap()).unwrap()
}

pub fn spec(layout: &Layout, parent: Option<ImageId>) -> ImageSpec {
    ImageSpec {
        vm: "vm1".to_owned(),
        parent,
        layout: layout.clone(),
        created: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    }
}

/// Bytes in which nothing repeats.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// The naive dump: every byte of every slot, in plain sight.
#[derive(Clone, PartialEq, Eq)]
pub struct Memory {
    pub page: usize,
    pub slots: BTreeMap<SlotId, Vec<u8>>,
}

impl Memory {
    pub fn zero(layout: &Layout) -> Self {
        let page = usize::try_from(layout.page_size().bytes()).unwrap();
        let slots = layout
            .slots()
            .iter()
            .map(|s| (s.id, vec![0; usize::try_from(s.npages).unwrap() * page]))
            .collect();
        Self { page, slots }
    }

    pub fn write(&mut self, slot: SlotId, first: u64, bytes: &[u8]) {
        let at = usize::try_from(first).unwrap() * self.page;
        self.slots.get_mut(&slot).unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn page(&self, slot: SlotId, page: u64) -> &[u8] {
        let at = usize::try_from(page).unwrap() * self.page;
        &self.slots[&slot][at..at + self.page]
    }

    /// Where two memories differ first.
    pub fn difference(&self, other: &Self) -> Option<(SlotId, usize)> {
        self.slots.iter().find_map(|(id, bytes)| {
            let at = bytes.iter().zip(&other.slots[id]).position(|(a, b)| a != b)?;
            Some((*id, at / self.page))
        })
    }

    /// What a restore of `image` makes of fresh memory.
    pub fn of(image: &Image) -> Result<Self, ringmark_image::RestoreError<std::convert::Infallible>> {
        let mut memory = Self::zero(image.layout());
        let mut pages = 0;
        let page = memory.page;
        let restored = image.restore(|slot, first, bytes| {
            pages += (bytes.len() / page) as u64;
            memory.write(slot, first, bytes);
            Ok(())
        })?;
        assert_eq!(restored.pages, pages);
        assert_eq!(restored.pages + restored.zero_pages, image.layout().pages());
        Ok(memory)
    }

    /// Puts all of it.
    pub fn put_all(&self, writer: &mut Writer) -> Result<(), WriteError> {
        self.slots.iter().try_for_each(|(slot, bytes)| writer.put(*slot, 0, bytes))
    }
}

/// A base of `memory` with two parts of machine state.
pub fn take_base(store: &Store, layout: &Layout, memory: &Memory) -> Result<Finished, WriteError> {
    let mut writer = store.begin(spec(layout, None)).unwrap();
    memory.put_all(&mut writer)?;
    writer.put_state("vcpu-0", b"registers")?;
    writer.put_state("machine", &noise(300, 9))?;
    writer.finish()
}

/// An increment in which each of `pages` is of `fill`ed noise.
pub fn take_increment(
    store: &Store,
    layout: &Layout,
    parent: ImageId,
    memory: &mut Memory,
    pages: &[(u16, u64)],
    seed: u64,
) -> Result<Finished, WriteError> {
    let mut writer = store.begin(spec(layout, Some(parent))).unwrap();
    for &(slot, page) in pages {
        let slot = SlotId::new(0, slot);
        let contents = noise(memory.page, seed ^ page);
        memory.write(slot, page, &contents);
        writer.put(slot, page, &contents)?;
    }
    writer.put_state("vcpu-0", &noise(64, seed))?;
    writer.finish()
}

/// Image `id` is whole and holds `memory`.
pub fn assert_holds(store: &Store, id: ImageId, memory: &Memory) {
    let image = store.image(id).unwrap();
    image.verify(true).unwrap();
    assert_eq!(Memory::of(&image).unwrap().difference(memory), None);
    for name in image.state_names() {
        image.state(name).unwrap();
    }
}

/// Entries of the directory of unfinished images.
pub fn leftovers(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("partial")).unwrap().count()
}

pub fn now() -> SystemTime {
    SystemTime::now()
}
