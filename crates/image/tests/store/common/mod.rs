//! Memories to take images of, and disks that fail.
pub(crate) mod backend_faults;
pub(crate) mod disk_faults;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_image::{
    Directory, Disk, Finished, Image, ImageId, ImageSpec, Layout, RestoreError, Store, WriteError, Writer,
};

/// A layout of slots given as base frame and pages.
pub(crate) fn layout(page: u64, slots: &[(u64, u64)]) -> Layout {
    let slots = slots.iter().zip(0..).map(|(&(base, npages), id)| Memslot {
        id: SlotId::new(0, id),
        base: Gfn(base),
        npages,
    });
    Layout::new(PageSize::new(page).unwrap(), SlotTable::new(slots).unwrap()).unwrap()
}

pub(crate) fn spec(layout: &Layout, parent: Option<ImageId>) -> ImageSpec {
    ImageSpec {
        vm: "vm1".to_owned(),
        parent,
        layout: layout.clone(),
        created: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    }
}

/// Bytes in which nothing repeats.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
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
pub(crate) struct Memory {
    pub(crate) page: usize,
    pub(crate) slots: BTreeMap<SlotId, Vec<u8>>,
}

impl Memory {
    pub(crate) fn zero(layout: &Layout) -> Self {
        let page = usize::try_from(layout.page_size().bytes()).unwrap();
        let slots = layout
            .slots()
            .iter()
            .map(|s| (s.id, vec![0; usize::try_from(s.npages).unwrap() * page]))
            .collect();
        Self { page, slots }
    }

    pub(crate) fn write(&mut self, slot: SlotId, first: u64, bytes: &[u8]) {
        let at = usize::try_from(first).unwrap() * self.page;
        self.slots.get_mut(&slot).unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn page(&self, slot: SlotId, page: u64) -> &[u8] {
        let at = usize::try_from(page).unwrap() * self.page;
        &self.slots[&slot][at..at + self.page]
    }

    pub(crate) fn pages(&self, slot: SlotId, first: u64, pages: u64) -> &[u8] {
        let at = usize::try_from(first).unwrap() * self.page;
        &self.slots[&slot][at..at + usize::try_from(pages).unwrap() * self.page]
    }

    /// Where two memories differ first.
    pub(crate) fn difference(&self, other: &Self) -> Option<(SlotId, usize)> {
        self.slots.iter().find_map(|(id, bytes)| {
            let at = bytes.iter().zip(&other.slots[id]).position(|(a, b)| a != b)?;
            Some((*id, at / self.page))
        })
    }

    /// What a restore of `image` makes of fresh memory.
    pub(crate) fn of(image: &Image) -> Result<Self, RestoreError<Infallible>> {
        let memory = Mutex::new((Self::zero(image.layout()), 0));
        let restored = image.restore(|slot, first, bytes| {
            let (memory, pages) = &mut *memory.lock().unwrap();
            *pages += (bytes.len() / memory.page) as u64;
            memory.write(slot, first, bytes);
            Ok(())
        })?;
        let (memory, pages) = memory.into_inner().unwrap();
        assert_eq!(restored.pages, pages);
        assert_eq!(restored.pages + restored.zero_pages, image.layout().pages());
        Ok(memory)
    }

    /// Puts all of it.
    pub(crate) fn put_all(&self, writer: &mut Writer) -> Result<(), WriteError> {
        self.slots.iter().try_for_each(|(slot, bytes)| writer.put(*slot, 0, bytes))
    }
}

/// A base of `memory` with two parts of machine state.
pub(crate) fn take_base(store: &Store, layout: &Layout, memory: &Memory) -> Result<Finished, WriteError> {
    let mut writer = store.begin(spec(layout, None)).unwrap();
    memory.put_all(&mut writer)?;
    writer.put_state("vcpu-0", b"registers")?;
    writer.put_state("machine", &noise(300, 9))?;
    writer.finish()
}

/// An increment in which each of `pages` is of `fill`ed noise.
pub(crate) fn take_increment(
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
pub(crate) fn assert_holds(store: &Store, id: ImageId, memory: &Memory) {
    let image = store.image(id).unwrap();
    image.verify(true).unwrap();
    assert_eq!(Memory::of(&image).unwrap().difference(memory), None);
    for name in image.state_names() {
        image.state(name).unwrap();
    }
}

/// What killed or failed writers have left: claims, unfinished files, and packs that no image needs.
pub(crate) fn leftovers(store: &Store) -> usize {
    let dir = Path::new(store.location());
    let names = |of: &str| -> Vec<String> {
        let entries = std::fs::read_dir(dir.join(of)).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let listing = store.list().unwrap();
    let used = |name: &String| listing.images.iter().any(|i| i.packs.iter().any(|p| p.name == *name));
    let packs = names("packs").iter().filter(|name| !used(name)).count();
    names("writers").len() + packs + names("images").iter().filter(|n| n.ends_with(".part")).count()
}

/// The file of the metadata of an image.
pub(crate) fn meta_file(store: &Store, id: ImageId) -> PathBuf {
    let images = std::fs::read_dir(Path::new(store.location()).join("images")).unwrap();
    let mut files = images.map(|e| e.unwrap().path());
    files.find(|p| p.to_str().unwrap().ends_with(&id.to_hex())).unwrap()
}

/// The files of the packs that were made for an image.
pub(crate) fn own_packs(store: &Store, id: ImageId) -> Vec<PathBuf> {
    let image = store.image(id).unwrap();
    let own = image.summary().packs.iter().filter(|p| p.own);
    own.map(|p| Path::new(store.location()).join("packs").join(&p.name)).collect()
}

/// Leftovers when a sweep has removed all of them, or a second has passed. A process that another test is just starting
/// holds every open lock between its fork and its exec, and so keeps the claim of a dead writer alive for that long.
pub(crate) fn left_by_sweeps(store: &Store) -> usize {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
    loop {
        store.sweep().unwrap();
        let left = leftovers(store);
        if left == 0 || std::time::Instant::now() > end {
            return left;
        }
        std::thread::yield_now();
    }
}

/// The store in the same directory, changed through `disk`.
pub(crate) fn on_disk(store: &Store, disk: Arc<dyn Disk>) -> Store {
    Store::with_backend(Arc::new(Directory::new(store.location(), disk)), false).unwrap()
}
