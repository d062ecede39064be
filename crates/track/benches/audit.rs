//! How fast memory is audited, in GiB/s: `cargo bench -p ringmark-track --bench audit`.
//!
//! Memory is 1 GiB of a file in memory, as the reference monitor's is, read page by page and in runs, through the file and
//! through a mapping. Each figure is the best of five passes, which is what the machine does when nothing else runs.
#![allow(
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "figures for people; a benchmark may fail"
)]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_track::{Audit, AuditRate, Memory, MemoryError};
use twox_hash::XxHash3_64;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

const SLOT: SlotId = SlotId::new(0, 0);
const BYTES: u64 = 1 << 30;
const PASSES: u32 = 5;

/// Which way memory is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    FileByPage,
    FileInRuns,
    MappingByPage,
    MappingInRuns,
}

struct Ram {
    file: File,
    mapping: GuestMemoryMmap<()>,
    page_size: PageSize,
    way: Way,
}

impl Ram {
    fn new(page_size: PageSize) -> Self {
        let path = format!("/dev/shm/ringmark-audit-bench-{}", std::process::id());
        let file =
            File::options().read(true).write(true).create_new(true).open(&path).expect("a file in memory");
        std::fs::remove_file(path).expect("unlinked");
        let mut chunk = vec![0_u8; 1 << 20];
        let mut random = 1_u64;
        for at in (0..BYTES).step_by(chunk.len()) {
            for word in chunk.chunks_exact_mut(8) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                word.copy_from_slice(&random.to_le_bytes());
            }
            file.write_all_at(&chunk, at).expect("room in memory");
        }
        let backing = FileOffset::new(file.try_clone().unwrap(), 0);
        let range = (GuestAddress(0), usize::try_from(BYTES).unwrap(), Some(backing));
        let mapping = GuestMemoryMmap::from_ranges_with_files([range]).expect("a mapping");
        Self { file, mapping, page_size, way: Way::FileInRuns }
    }

    fn copy(&self, offset: u64, into: &mut [u8], mapped: bool) -> Result<(), MemoryError> {
        let start = self.page_size.address(Gfn(offset)).unwrap();
        let copied = if mapped {
            self.mapping.read_slice(into, GuestAddress(start)).map_err(Into::into)
        } else {
            self.file.read_exact_at(into, start).map_err(Into::into)
        };
        copied.map_err(|error| MemoryError { slot: SLOT, offset, error })
    }
}

impl Memory for Ram {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn read(&self, _: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        self.copy(offset, page, matches!(self.way, Way::MappingByPage | Way::MappingInRuns))
    }

    fn read_run(&self, _: SlotId, offset: u64, run: &mut [u8]) -> Result<(), MemoryError> {
        let page = usize::try_from(self.page_size.bytes()).unwrap();
        match self.way {
            Way::FileInRuns => self.copy(offset, run, false),
            Way::MappingInRuns => self.copy(offset, run, true),
            Way::FileByPage | Way::MappingByPage => run
                .chunks_mut(page)
                .zip(offset..)
                .try_for_each(|(page, offset)| self.read(SLOT, offset, page)),
        }
    }
}

fn best(mut pass: impl FnMut()) -> Duration {
    (0..PASSES)
        .map(|_| {
            let begun = Instant::now();
            pass();
            begun.elapsed()
        })
        .min()
        .unwrap()
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / (1_u64 << 30) as f64
}

fn main() {
    let page_size = PageSize::new(4096).unwrap();
    let cached = vec![7_u8; 1 << 16];
    let took = best(|| {
        for _ in 0..1 << 12 {
            for page in black_box(&cached[..]).chunks_exact(4096) {
                black_box(XxHash3_64::oneshot(page));
            }
        }
    });
    println!("XXH3 of pages in the cache, one thread: {:.1} GiB/s", rate(1 << 28, took));

    let mut ram = Ram::new(page_size);
    let slots =
        SlotTable::new([Memslot { id: SLOT, base: Gfn(0), npages: page_size.pages_in(BYTES) }]).unwrap();
    let nothing = DirtyPages::new(&slots);
    println!("1 GiB in pages of {page_size}, {} threads:", thread::available_parallelism().unwrap());
    for way in [Way::FileByPage, Way::FileInRuns, Way::MappingByPage, Way::MappingInRuns] {
        ram.way = way;
        let mut audit = Audit::begin(&slots, &ram).unwrap();
        let took = best(|| assert!(audit.observe(&ram, &nothing).unwrap().escapes.is_empty()));
        println!("  every page, {way:?}: {:.1} GiB/s, {:.1} ms", rate(BYTES, took), took.as_secs_f64() * 1e3);
        for percent in ["1%", "10%"] {
            let share: AuditRate = percent.parse().unwrap();
            let mut audit = Audit::sample(&slots, &ram, share).unwrap();
            let mut bytes = 0;
            let took = best(|| bytes = audit.observe(&ram, &nothing).unwrap().bytes);
            println!(
                "  a sample of {percent}, {way:?}: {:.2} ms for {:.1} MiB, {:.1} GiB/s",
                took.as_secs_f64() * 1e3,
                bytes as f64 / f64::from(1 << 20),
                rate(bytes, took)
            );
        }
    }
}
