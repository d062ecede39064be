//! Random memories, dirty sets and chains, beside a naive dump of the same.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::common::{Memory, layout, noise, spec};
use proptest::prelude::*;
use ringmark_dirty::SlotId;
use ringmark_image::{Image, ImageId, Layout, PageKind, Store};

/// One call of the writer.
#[derive(Clone, Debug)]
struct Put {
    slot: prop::sample::Index,
    first: prop::sample::Index,
    pages: u64,
    contents: Contents,
}

#[derive(Clone, Copy, Debug)]
enum Contents {
    Noise(u64),
    Repeated(u8),
    /// A page of noise, one of zeros, and so on.
    Mixed(u64),
    /// Each page of one word of its own.
    Words(u64),
    /// What the memory holds anyway.
    Before,
    Zero,
    /// Zero, without handing bytes over.
    Absent,
}

fn puts() -> impl Strategy<Value = Vec<Put>> {
    let contents = prop_oneof![
        any::<u64>().prop_map(Contents::Noise),
        any::<u8>().prop_map(Contents::Repeated),
        any::<u64>().prop_map(Contents::Mixed),
        any::<u64>().prop_map(Contents::Words),
        Just(Contents::Before),
        Just(Contents::Zero),
        Just(Contents::Absent),
    ];
    let put = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u64..70, contents)
        .prop_map(|(slot, first, pages, contents)| Put { slot, first, pages, contents });
    prop::collection::vec(put, 0..12)
}

/// Slots more than 3 GiB apart, so that an offset taken in the wrong slot shows.
fn layouts() -> impl Strategy<Value = Layout> {
    let page = prop::sample::select(vec![512u64, 4096, 16384, 65536]);
    (page, prop::collection::vec(1u64..600, 1..5)).prop_map(|(page, slots)| {
        let far = (3 << 30) / page + 1000;
        let slots: Vec<_> = slots.iter().zip(0u64..).map(|(n, i)| (i * far, n.div_ceil(page >> 9))).collect();
        layout(page, &slots)
    })
}

fn bytes(contents: Contents, page: usize, pages: u64) -> Vec<u8> {
    let len = page * usize::try_from(pages).unwrap();
    match contents {
        Contents::Noise(seed) => noise(len, seed),
        Contents::Repeated(byte) => vec![byte; len],
        Contents::Mixed(seed) => {
            let mut bytes = noise(len, seed);
            bytes.chunks_mut(page).skip(1).step_by(2).for_each(|p| p.fill(0));
            bytes
        }
        Contents::Words(seed) => {
            let words = noise(usize::try_from(pages).unwrap() * 8, seed);
            words.chunks_exact(8).flat_map(|word| word.repeat(page / 8)).collect()
        }
        Contents::Before | Contents::Zero | Contents::Absent => vec![0; len],
    }
}

/// Takes one image of `memory`, which it changes as `puts` say. Returns it and how many pages were put, each once.
fn take(
    store: &Store,
    layout: &Layout,
    parent: Option<ImageId>,
    memory: &mut Memory,
    puts: &[Put],
) -> (ImageId, usize) {
    let before = memory.clone();
    let mut writer = store.begin(spec(layout, parent)).unwrap();
    let mut put = BTreeSet::new();
    if parent.is_none() {
        memory.put_all(&mut writer).unwrap();
        put.extend(layout.slots().iter().flat_map(|s| (0..s.npages).map(|p| (s.id, p))));
    }
    for call in puts {
        let slots: Vec<_> = layout.slots().iter().collect();
        let slot = call.slot.get(&slots);
        let first = call.first.index(usize::try_from(slot.npages).unwrap()) as u64;
        let pages = call.pages.min(slot.npages - first);
        let bytes = match call.contents {
            Contents::Before => memory.pages(slot.id, first, pages).to_vec(),
            contents => bytes(contents, memory.page, pages),
        };
        match call.contents {
            Contents::Absent => writer.put_zero(slot.id, first, pages).unwrap(),
            _ => writer.put(slot.id, first, &bytes).unwrap(),
        }
        memory.write(slot.id, first, &bytes);
        put.extend((first..first + pages).map(|p| (slot.id, p)));
    }
    writer.put_state("seed", &put.len().to_le_bytes()).unwrap();
    let finished = writer.finish().unwrap();
    assert_eq!(finished.pages, put.len() as u64);
    let zero = put.iter().filter(|(slot, page)| memory.page(*slot, *page).iter().all(|b| *b == 0)).count();
    // A zero page that was zero before may count as unchanged.
    assert!(
        finished.zero_pages <= zero as u64 && zero as u64 <= finished.zero_pages + finished.unchanged_pages
    );
    if let Some(parent) = parent {
        // The difference of the two images is that of the two memories.
        let changed = store.image(finished.id).unwrap().changes(&store.image(parent).unwrap()).unwrap();
        let differ = |slot: SlotId, page| memory.page(slot, page) != before.page(slot, page);
        for slot in layout.slots().iter() {
            for page in 0..slot.npages {
                assert_eq!(
                    changed.contains(slot.id, page),
                    differ(slot.id, page),
                    "page {page} of {}",
                    slot.id
                );
            }
        }
    }
    (finished.id, put.len())
}

fn check(image: &Image, memory: &Memory, put: usize, every_page: bool) {
    assert_eq!(Memory::of(image).unwrap().difference(memory), None);
    image.verify(true).unwrap();
    assert_eq!(image.state("seed").unwrap(), put.to_le_bytes());
    if every_page {
        let mut buf = vec![1; memory.page];
        for slot in image.layout().slots().iter() {
            for page in 0..slot.npages {
                let kind = image.page(slot.id, page, &mut buf).unwrap();
                assert_eq!(buf, memory.page(slot.id, page), "page {page} of slot {}", slot.id);
                let seen = Mutex::new(false);
                let again = image.extent(slot.id, page, |slot, first, bytes| {
                    let pages = (bytes.len() / memory.page) as u64;
                    assert_eq!(bytes, memory.pages(slot, first, pages));
                    *seen.lock().unwrap() |= (first..first + pages).contains(&page);
                    Ok::<_, ()>(())
                });
                assert_eq!(again.unwrap(), kind);
                assert_eq!(seen.into_inner().unwrap(), kind != PageKind::Zero);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_is_what_a_dump_would_be(layout in layouts(), rounds in prop::collection::vec(puts(), 1..7)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path().join("store")).unwrap();
        let mut memory = Memory::zero(&layout);
        let mut taken: Vec<(ImageId, Memory, usize)> = Vec::new();
        for puts in &rounds {
            let parent = taken.last().map(|t| t.0);
            let (id, put) = take(&store, &layout, parent, &mut memory, puts);
            taken.push((id, memory.clone(), put));
        }
        // Every image of the chain, not only the last, by a store that knows nothing of the writing.
        let store = Store::open(dir.path().join("store")).unwrap();
        for (i, (id, memory, put)) in taken.iter().enumerate() {
            let image = store.image(*id).unwrap();
            check(&image, memory, *put, i + 1 == taken.len());
        }
        let listed: Vec<_> = store.list().unwrap().images.iter().map(|i| i.id).collect();
        prop_assert_eq!(listed, taken.iter().rev().map(|t| t.0).collect::<Vec<_>>());
    }
}

/// The mistake that put 47,000 pages of larger guests at the wrong place: a file cursor that clean pages do not move.
#[test]
fn a_dump_that_ignores_the_gaps_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let layout = layout(4096, &[(0, 40), (1 << 20, 40)]);
    let mut memory = Memory::zero(&layout);
    for page in [3, 4, 5] {
        memory.write(SlotId::new(0, 0), page, &noise(4096, page));
    }
    memory.write(SlotId::new(0, 1), 7, &noise(4096, 70));
    let id = crate::common::take_base(&store, &layout, &memory).unwrap().id;
    let image = store.image(id).unwrap();
    assert_eq!(Memory::of(&image).unwrap().difference(&memory), None);
    let wrong = Mutex::new((Memory::zero(&layout), 0));
    image
        .restore(|slot, _, bytes| {
            let (wrong, cursor) = &mut *wrong.lock().unwrap();
            wrong.write(slot, *cursor, bytes);
            *cursor += (bytes.len() / 4096) as u64;
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap();
    assert!(wrong.into_inner().unwrap().0.difference(&memory).is_some());
}

#[test]
fn pages_put_again_are_counted_and_the_last_put_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let layout = layout(4096, &[(0, 2000)]);
    let slot = SlotId::new(0, 0);
    let mut writer = store.begin(spec(&layout, None)).unwrap();
    let mut memory = Memory::zero(&layout);
    // Zero, noise, zero, noise: each over all pages, so that each is spread over several batches.
    for round in 0..4u64 {
        let bytes = if round % 2 == 0 { vec![0; 4096 * 2000] } else { noise(4096 * 2000, round) };
        writer.put(slot, 0, &bytes).unwrap();
        memory.write(slot, 0, &bytes);
    }
    writer.put_zero(slot, 100, 1500).unwrap();
    memory.write(slot, 100, &vec![0; 4096 * 1500]);
    let finished = writer.finish().unwrap();
    assert_eq!(
        (finished.pages, finished.zero_pages, finished.superseded_pages),
        (2000, 1500, 3 * 2000 + 1500)
    );
    crate::common::assert_holds(&store, finished.id, &memory);
}

#[test]
fn a_terabyte_of_nothing_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let layout = layout(4096, &[(0, 1 << 28)]);
    let slot = SlotId::new(0, 0);
    let mut writer = store.begin(spec(&layout, None)).unwrap();
    writer.put_zero(slot, 0, 1 << 28).unwrap();
    writer.put(slot, 77_777_777, &[5; 4096]).unwrap();
    let finished = writer.finish().unwrap();
    assert_eq!((finished.pages, finished.zero_pages), (1 << 28, (1 << 28) - 1));
    assert!(finished.bytes_stored < 4096, "{} bytes", finished.bytes_stored);
    let image = store.image(finished.id).unwrap();
    let mut buf = [1; 4096];
    image.page(slot, 77_777_777, &mut buf).unwrap();
    assert_eq!(buf, [5; 4096]);
    image.page(slot, (1 << 28) - 1, &mut buf).unwrap();
    assert_eq!(buf, [0; 4096]);
}
