//! Pages of the parent that are stored again beside those that were put: when, how many, and that none is older than what
//! was put.

use crate::common::{Memory, assert_holds, layout, noise, spec, take_base};
use ringmark_dirty::SlotId;
use ringmark_image::{Finished, ImageId, Layout, Store};

const SLOT: SlotId = SlotId::new(0, 0);
const PAGE_BYTES: usize = 4096;
/// Pages of an extent.
const GROUP: u64 = 16;
const PAGES: u64 = 64 * GROUP;

struct Rig {
    _dir: tempfile::TempDir,
    store: Store,
    layout: Layout,
    memory: Memory,
    newest: ImageId,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path().join("store")).unwrap();
        let layout = layout(PAGE_BYTES as u64, &[(0, PAGES)]);
        let mut memory = Memory::zero(&layout);
        for page in 0..PAGES {
            memory.write(SLOT, page, &words(page));
        }
        let newest = take_base(&store, &layout, &memory).unwrap().id;
        Self { _dir: dir, store, layout, memory, newest }
    }

    /// An increment of `pages`, in this order.
    fn put(&mut self, pages: &[u64], seed: u64) -> Finished {
        let mut writer = self.store.begin(spec(&self.layout, Some(self.newest))).unwrap();
        for page in pages {
            let contents = words(seed << 32 | page);
            self.memory.write(SLOT, *page, &contents);
            writer.put(SLOT, *page, &contents).unwrap();
        }
        let finished = writer.finish().unwrap();
        self.newest = finished.id;
        finished
    }
}

/// A page that compresses.
fn words(seed: u64) -> Vec<u8> {
    let vocabulary = noise(256, seed);
    let choice = noise(PAGE_BYTES / 8, !seed);
    choice.iter().flat_map(|i| vocabulary[usize::from(i % 32) * 8..][..8].to_vec()).collect()
}

/// One page of each group.
fn of_each_group(page: u64) -> Vec<u64> {
    (0..PAGES / GROUP).map(|group| group * GROUP + page).collect()
}

/// `count` pages, no two the same, anywhere.
fn anywhere(count: usize, seed: u64) -> Vec<u64> {
    let mut pages: Vec<u64> = (0..PAGES).collect();
    let order = noise(pages.len() * 8, seed);
    pages.sort_by_key(|page| {
        let at = usize::try_from(*page).unwrap() * 8;
        order[at..at + 8].to_vec()
    });
    pages.truncate(count);
    pages.sort_unstable();
    pages
}

/// Single pages anywhere, in an image after the other: what a restore has to read stays near what a base has, and what
/// it costs to keep it there is bounded.
#[test]
fn scattered_pages_are_gathered() {
    let mut rig = Rig::new();
    let (mut put, mut gathered) = (0, 0);
    let mut history = Vec::new();
    for turn in 0..60 {
        let finished = rig.put(&anywhere(16, turn + 1), turn + 1);
        assert_eq!((finished.pages, finished.unchanged_pages, finished.superseded_pages), (16, 0, 0));
        put += finished.pages;
        gathered += finished.gathered_pages;
        history.push((finished.id, rig.memory.clone()));
    }
    assert!(gathered > put, "{gathered} pages were gathered");
    // A group is stored anew for two pages put, or more.
    assert!(2 * gathered <= (GROUP - 1) * put, "{gathered} pages were gathered for {put}");
    for (id, memory) in history.iter().step_by(7) {
        assert_holds(&rig.store, *id, memory);
    }
    let (newest, memory) = history.pop().unwrap();
    let chain = rig.store.image(newest).unwrap();
    let alone = take_base(&rig.store, &rig.layout, &memory).unwrap().id;
    let reads = |id| {
        let image = rig.store.image(id).unwrap();
        image.restore(|_, _, _: &[u8]| Ok::<_, std::convert::Infallible>(())).unwrap().bytes_read
    };
    let (one, all) = (reads(alone), reads(newest));
    assert!(all <= one + one / 2, "a restore of the chain reads {all} bytes, of a base {one}");
    // What was gathered frees the packs that it came from.
    let needed = chain.summary().packs.len();
    assert!(needed < 60, "{needed} packs");
    let ids: Vec<ImageId> = history.iter().map(|(id, _)| *id).collect();
    rig.store.remove(&ids).unwrap();
    assert_holds(&rig.store, newest, &memory);
}

/// Pages that are written all the time, and few of them: nothing is worth gathering.
#[test]
fn hot_pages_cost_nothing_more() {
    let mut rig = Rig::new();
    let hot: Vec<u64> = (0..20).map(|i| i * 3).collect();
    for turn in 0..20 {
        let finished = rig.put(&hot, turn + 1);
        assert_eq!((finished.pages, finished.gathered_pages), (20, 0));
    }
    assert_holds(&rig.store, rig.newest, &rig.memory);
}

/// In every group, a page is put after another whose group may be stored anew, with the first, as the parent has it.
#[test]
fn what_was_put_is_newer_than_what_was_gathered() {
    let mut rig = Rig::new();
    let mut gathered = 0;
    for (turn, (first, second)) in [(9, 4), (2, 1), (12, 6)].into_iter().enumerate() {
        // A single page of each group, so that one more makes it worth while.
        rig.put(&of_each_group(7), turn as u64 + 1);
        let pages: Vec<u64> =
            (0..PAGES / GROUP).flat_map(|group| [group * GROUP + first, group * GROUP + second]).collect();
        let finished = rig.put(&pages, turn as u64 + 100);
        assert_holds(&rig.store, rig.newest, &rig.memory);
        assert_eq!(finished.pages, 2 * PAGES / GROUP);
        gathered += finished.gathered_pages;
    }
    assert!(gathered > 0);
    // The same pages twice in one image: the last wins, and nothing that was gathered counts as put.
    let mut seed = 50;
    while rig.put(&of_each_group(7), seed).gathered_pages > 0 {
        seed += 1;
    }
    let mut writer = rig.store.begin(spec(&rig.layout, Some(rig.newest))).unwrap();
    for group in 0..PAGES / GROUP {
        let page = group * GROUP + 5;
        writer.put(SLOT, page, &words(page)).unwrap();
        writer.put(SLOT, page - 1, rig.memory.page(SLOT, page - 1)).unwrap();
        writer.put_zero(SLOT, page + 3, 1).unwrap();
        let contents = words(page << 8);
        writer.put(SLOT, page, &contents).unwrap();
        rig.memory.write(SLOT, page, &contents);
        rig.memory.write(SLOT, page + 3, &[0; PAGE_BYTES]);
    }
    let finished = writer.finish().unwrap();
    let groups = PAGES / GROUP;
    assert_eq!((finished.pages, finished.unchanged_pages, finished.zero_pages), (3 * groups, groups, groups));
    assert_eq!(finished.superseded_pages, groups);
    assert!(finished.gathered_pages > groups, "{finished:?}");
    assert_holds(&rig.store, finished.id, &rig.memory);
}

/// A parent that cannot be read is a reason to leave its pages where they are, and none to lose a checkpoint.
#[test]
fn a_damaged_parent_fails_no_increment() {
    let mut rig = Rig::new();
    rig.put(&of_each_group(2), 1);
    // The pages of the base, the index aside.
    let base = rig.store.list().unwrap().images.pop().unwrap();
    let pack = std::path::Path::new(rig.store.location()).join("packs").join(&base.packs[0].name);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100..200].fill(0xaa);
    std::fs::write(&pack, bytes).unwrap();
    let finished = rig.put(&of_each_group(9), 7);
    assert_eq!((finished.pages, finished.gathered_pages), (PAGES / GROUP, 0));
    let mut page = vec![0; PAGE_BYTES];
    let image = rig.store.image(finished.id).unwrap();
    image.page(SLOT, 9, &mut page).unwrap();
    assert!(page == rig.memory.page(SLOT, 9));
    image.page(SLOT, 1, &mut page).unwrap_err();
}
