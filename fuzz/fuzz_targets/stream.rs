#![no_main]

use std::sync::Mutex;

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_migrate::codec::{Decoder, Ledger, PageStore, Tally};
use ringmark_migrate::wire::{Kind, frame};
use ringmark_track::{Memory, MemoryError};

const PAGE: usize = 512;
const PAGES: u64 = 64;

struct Ram(Mutex<Vec<u8>>);

impl Ram {
    fn range(first: u64, bytes: usize) -> std::ops::Range<usize> {
        let start = usize::try_from(first).expect("a page") * PAGE;
        start..start + bytes
    }
}

impl Memory for Ram {
    fn page_size(&self) -> PageSize {
        PageSize::new(PAGE as u64).expect("a page size")
    }

    fn read(&self, _: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        page.copy_from_slice(&self.0.lock().expect("one thread")[Self::range(offset, page.len())]);
        Ok(())
    }
}

impl PageStore for Ram {
    fn write(&self, _: SlotId, first: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.0.lock().expect("one thread")[Self::range(first, bytes.len())].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&self, _: SlotId, first: u64, count: u64) -> Result<(), MemoryError> {
        let bytes = usize::try_from(count).expect("pages") * PAGE;
        self.0.lock().expect("one thread")[Self::range(first, bytes)].fill(0);
        Ok(())
    }
}

// What a source sends on a stream: frames, once with checksums that are right and once as they come.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let slot = Memslot { id: SlotId::new(0, 1), base: Gfn(4), npages: PAGES };
    let slots = SlotTable::new([slot]).expect("one slot");
    let ram = Ram(Mutex::new(vec![0; PAGE * usize::try_from(PAGES).expect("a few")]));
    let (ledger, mut tally) = (Ledger::new(&slots), Tally::default());
    let mut decoder = Decoder::new(ram.page_size());
    let mut right = Vec::new();
    let _ = frame::send(&mut right, Kind::Pages, bytes);
    for mut stream in [right.as_slice(), bytes] {
        let mut payload = Vec::new();
        while let Ok(kind) = frame::receive_into(&mut stream, &mut payload) {
            if kind == Kind::Pages {
                let _ = decoder.decode(&payload, &slots, &ram, &mut |run, page, hash| {
                    ledger.enter(&mut tally, run.slot, page, hash);
                });
            }
        }
    }
    assert_eq!(ledger.tally(), tally);
});
