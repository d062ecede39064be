//! Memories that compress as those of guests do, and a place to restore them to.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "each bench uses its own part, and stops at any failure"
)]

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_image::{Finished, Image, ImageId, ImageSpec, Layout, Restored, Store};

pub(crate) const PAGE: usize = 4096;
pub(crate) const MIB: usize = 1 << 20;

pub(crate) fn slot() -> SlotId {
    SlotId::new(0, 0)
}

pub(crate) fn layout(mib: usize) -> Layout {
    let npages = (mib * MIB / PAGE) as u64;
    let slots = SlotTable::new([Memslot { id: slot(), base: Gfn(0), npages }]).unwrap();
    Layout::new(PageSize::new(PAGE as u64).unwrap(), slots).unwrap()
}

pub(crate) fn spec(layout: &Layout, parent: Option<ImageId>) -> ImageSpec {
    ImageSpec { vm: "bench".to_owned(), parent, layout: layout.clone(), created: SystemTime::now() }
}

/// Where the benchmark works: `RINGMARK_BENCH_DIR`, or the place for temporary files.
pub(crate) fn place() -> tempfile::TempDir {
    let dir = std::env::var_os("RINGMARK_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new().prefix("ringmark-bench").tempdir_in(dir).unwrap()
}

/// The number in the environment variable `name`.
pub(crate) fn wish(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

pub(crate) fn base(store: &Store, layout: &Layout, memory: &[u8]) -> Finished {
    let mut writer = store.begin(spec(layout, None)).unwrap();
    for (chunk, i) in memory.chunks(MIB).zip(0u64..) {
        writer.put(slot(), i * (MIB / PAGE) as u64, chunk).unwrap();
    }
    writer.finish().unwrap()
}

/// xorshift: nothing in it repeats within reach of a compressor.
#[derive(Clone, Copy)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
    }
}

pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Random(0x9e37_79b9_7f4a_7c15).fill(&mut out);
    out
}

/// Words of a small vocabulary: compresses about as well as a guest's heap.
pub(crate) fn text(out: &mut [u8], random: &mut Random) {
    let mut words = [0u64; 512];
    let mut vocabulary = Random(77);
    words.fill_with(|| vocabulary.next());
    for chunk in out.chunks_exact_mut(8) {
        let choice = usize::try_from(random.next() >> 33).unwrap() % words.len();
        chunk.copy_from_slice(&words[choice].to_le_bytes());
    }
}

/// Memory that is written from several threads.
pub(crate) struct Target(Vec<Mutex<Vec<u8>>>);

impl Target {
    const CHUNK: usize = 2 * MIB;

    /// Memory that is resident, so that the kernel's share of a restore is left out.
    pub(crate) fn new(len: usize) -> Self {
        Self((0..len.div_ceil(Self::CHUNK)).map(|_| Mutex::new(vec![1; Self::CHUNK])).collect())
    }

    pub(crate) fn write(&self, first: u64, mut bytes: &[u8]) {
        let mut at = usize::try_from(first).unwrap() * PAGE;
        while !bytes.is_empty() {
            let (chunk, skip) = (at / Self::CHUNK, at % Self::CHUNK);
            let len = bytes.len().min(Self::CHUNK - skip);
            self.0[chunk].lock().unwrap()[skip..skip + len].copy_from_slice(&bytes[..len]);
            (at, bytes) = (at + len, &bytes[len..]);
        }
    }

    pub(crate) fn holds(&self, memory: &[u8]) -> bool {
        let same =
            |(chunk, memory): (&Mutex<Vec<u8>>, &[u8])| chunk.lock().unwrap()[..memory.len()] == *memory;
        self.0.iter().zip(memory.chunks(Self::CHUNK)).all(same)
    }
}

pub(crate) fn restore(image: &Image, target: &Target) -> Restored {
    let sink = |_, first, bytes: &[u8]| {
        target.write(first, bytes);
        Ok::<_, std::convert::Infallible>(())
    };
    image.restore(sink).unwrap()
}

/// The middle one.
pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
