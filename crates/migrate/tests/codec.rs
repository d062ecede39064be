//! Whatever pages there are, however they are encoded, the destination has them.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::HashMap;
use std::sync::Mutex;

use proptest::prelude::*;
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_migrate::codec::{Decoder, Encoder, Ledger, PageStore, Tally, hash_content};
use ringmark_migrate::wire::{Encoding, Run};
use ringmark_track::MemoryError;

const PAGE: usize = 512;
const PAGES: u64 = 64;

fn slot() -> SlotId {
    SlotId::new(0, 1)
}

fn page_size() -> PageSize {
    PageSize::new(PAGE as u64).unwrap()
}

fn slots() -> SlotTable {
    SlotTable::new([Memslot { id: slot(), base: Gfn(4), npages: PAGES }]).unwrap()
}

#[derive(Default)]
struct Memory(Mutex<HashMap<u64, Vec<u8>>>);

impl ringmark_track::Memory for Memory {
    fn page_size(&self) -> PageSize {
        page_size()
    }

    fn read(&self, _: SlotId, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        bytes.copy_from_slice(self.0.lock().unwrap().get(&offset).map_or(&[0; PAGE], |page| page));
        Ok(())
    }
}

impl PageStore for Memory {
    fn write(&self, _: SlotId, first: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let mut pages = self.0.lock().unwrap();
        (first..).zip(bytes.chunks_exact(PAGE)).for_each(|(page, bytes)| {
            pages.insert(page, bytes.to_vec());
        });
        Ok(())
    }

    fn zero(&self, slot: SlotId, first: u64, count: u64) -> Result<(), MemoryError> {
        (first..first + count).try_for_each(|page| self.write(slot, page, &[0; PAGE]))
    }
}

/// What a guest does to a page.
#[derive(Clone, Debug)]
enum Write {
    Zero,
    Fill(u64),
    Text(u8),
    Noise(u64),
    OneWord(u16, u64),
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        Just(Write::Zero),
        any::<u64>().prop_map(Write::Fill),
        any::<u8>().prop_map(Write::Text),
        any::<u64>().prop_map(Write::Noise),
        (0..64_u16, any::<u64>()).prop_map(|(at, word)| Write::OneWord(at, word)),
    ]
}

fn apply(write: &Write, page: &mut [u8]) {
    match write {
        Write::Zero => page.fill(0),
        Write::Fill(word) => page.as_chunks_mut::<8>().0.fill(word.to_le_bytes()),
        Write::Text(byte) => {
            for (at, b) in page.iter_mut().enumerate() {
                *b = byte.wrapping_add(u8::try_from(at % 7).unwrap());
            }
        }
        Write::Noise(seed) => {
            let mut x = seed | 1;
            for b in page.as_chunks_mut::<8>().0 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                *b = x.to_le_bytes();
            }
        }
        Write::OneWord(at, word) => page.as_chunks_mut::<8>().0[usize::from(*at)] = word.to_le_bytes(),
    }
}

const EVERYTHING: &[Encoding] =
    &[Encoding::Zero, Encoding::Word, Encoding::Raw, Encoding::Lz4, Encoding::Zstd, Encoding::Delta];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn memory_arrives(
        rounds in proptest::collection::vec(
            (0..PAGES, proptest::collection::vec(write(), 1..8)), 1..200),
        allowed in proptest::sample::subsequence(EVERYTHING, 0..=EVERYTHING.len()),
        room in 0..40_usize,
    ) {
        let slots = slots();
        let mut source = vec![0; PAGE * usize::try_from(PAGES).unwrap()];
        let there = Memory::default();
        let (mut encoder, mut decoder) = (Encoder::new(page_size(), &allowed, room), Decoder::new(page_size()));
        let (sent, received) = (Ledger::new(&slots), Ledger::new(&slots));
        let (mut ours, mut theirs) = (Tally::default(), Tally::default());
        let mut written = std::collections::HashSet::new();
        for (first, writes) in &rounds {
            let first = *first.min(&(PAGES - writes.len() as u64));
            let start = usize::try_from(first).unwrap() * PAGE;
            let run = &mut source[start..start + writes.len() * PAGE];
            run.chunks_exact_mut(PAGE).zip(writes).for_each(|(page, write)| apply(write, page));
            for (page, bytes) in (first..).zip(run.chunks_exact(PAGE)) {
                sent.enter(&mut ours, slot(), page, hash_content(bytes));
                written.insert(page);
            }
            let encoded = encoder.encode(slot(), first, run, true, &mut |frame| {
                let mut seen = |run: &Run, page, hash| {
                    received.enter(&mut theirs, run.slot, page, hash);
                };
                decoder.decode(frame, &slots, &there, &mut seen).map_err(std::io::Error::other)?;
                Ok(())
            });
            let encoded = encoded.unwrap();
            let all = encoded.zero + encoded.word + encoded.normal + encoded.delta;
            prop_assert_eq!(all, writes.len() as u64);
        }
        for page in written {
            let start = usize::try_from(page).unwrap() * PAGE;
            prop_assert_eq!(&there.0.lock().unwrap()[&page], &source[start..start + PAGE]);
        }
        prop_assert_eq!(ours.digest(), theirs.digest());
    }

    #[test]
    fn damaged_frames_do_no_harm(
        writes in proptest::collection::vec(write(), 1..8),
        encoding in 1..7_u8,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let slots = slots();
        let mut bytes = vec![0; writes.len() * PAGE];
        bytes.chunks_exact_mut(PAGE).zip(&writes).for_each(|(page, write)| apply(write, page));
        let mut encoder = Encoder::new(page_size(), EVERYTHING, 0);
        let mut frames = Vec::new();
        encoder.encode(slot(), 3, &bytes, false, &mut |frame| { frames.push(frame.to_vec()); Ok(()) }).unwrap();
        let mut decoder = Decoder::new(page_size());
        for mut frame in frames {
            frame[4] = encoding;
            for (at, byte) in &damage {
                let at = at.index(frame.len());
                frame[at] = *byte;
            }
            let _ = decoder.decode(&frame, &slots, &Memory::default(), &mut |_, _, _| {});
            let _ = decoder.decode(&frame[..cut.index(frame.len())], &slots, &Memory::default(), &mut |_, _, _| {});
        }
    }
}

#[test]
fn a_small_change_is_a_small_frame() {
    let slots = slots();
    let mut encoder = Encoder::new(page_size(), &[Encoding::Raw, Encoding::Delta], 64);
    let there = Memory::default();
    let mut decoder = Decoder::new(page_size());
    let mut page = vec![0; PAGE];
    apply(&Write::Noise(7), &mut page);
    let mut smallest = usize::MAX;
    for round in 0..64_u64 {
        apply(&Write::OneWord(5, round), &mut page);
        encoder
            .encode(slot(), 9, &page, true, &mut |frame| {
                smallest = smallest.min(frame.len());
                decoder
                    .decode(frame, &slots, &there, &mut |_, _, _| {})
                    .map(drop)
                    .map_err(std::io::Error::other)
            })
            .unwrap();
    }
    assert_eq!(there.0.lock().unwrap()[&9], page);
    assert!(smallest < 80, "{smallest} bytes");
}
