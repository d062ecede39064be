//! Runs of pages into frames.

use std::io;
use std::time::Instant;

use ringmark_dirty::{PageSize, SlotId};

use super::{Economy, Held};
use crate::wire::{Encoding, Run};

/// zstd's level for pages on their way: the fastest of its ordinary ones.
const ZSTD_LEVEL: i32 = 1;

/// What became of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Pages of zeros.
    pub zero: u64,
    /// Pages of one repeated word.
    pub word: u64,
    /// Pages sent as they are, or compressed.
    pub normal: u64,
    /// Pages sent as a difference.
    pub delta: u64,
    /// Pages that the destination has already, of an old image.
    pub known: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

impl Encoded {
    /// All of them, or the first error.
    pub(crate) fn sum<E>(shares: impl IntoIterator<Item = Result<Self, E>>) -> Result<Self, E> {
        // Every one is taken, whatever the others are.
        let (mut sum, mut failed) = (Self::default(), None);
        for share in shares {
            match share {
                Ok(share) => sum.add(share),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(sum), Err)
    }

    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        self.zero += other.zero;
        self.word += other.word;
        self.normal += other.normal;
        self.delta += other.delta;
        self.known += other.known;
        self.bytes += other.bytes;
    }
}

/// Turns runs of pages into frames; one a stream, whose pages are no other stream's.
#[derive(Debug)]
pub struct Encoder {
    page: usize,
    economy: Economy,
    fills: bool,
    held: Held,
    frame: Vec<u8>,
    scratch: Vec<u8>,
    /// Room for what a compressor makes of a run; not cleared in between.
    packed: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Fill(u64),
    Other,
}

impl Encoder {
    /// An encoder of pages of `page_size` that uses `allowed` and holds up to `held` pages to send differences to.
    #[must_use]
    pub fn new(page_size: PageSize, allowed: &[Encoding], held: usize) -> Self {
        let fills = allowed.contains(&Encoding::Zero) && allowed.contains(&Encoding::Word);
        let held = if allowed.contains(&Encoding::Delta) { held } else { 0 };
        Self {
            page: usize::try_from(page_size.bytes()).unwrap_or(usize::MAX),
            economy: Economy::new(allowed),
            fills,
            held: Held::new(held),
            frame: Vec::new(),
            scratch: Vec::new(),
            packed: Vec::new(),
        }
    }

    /// What was learned of the link.
    pub fn economy(&mut self) -> &mut Economy {
        &mut self.economy
    }

    /// Encodes `bytes`, whole pages from `first`, and hands each frame's payload to `send`. `again`: whether pages of this
    /// run were sent before, and so may be once more.
    ///
    /// # Errors
    /// What `send` fails with.
    pub fn encode(
        &mut self,
        slot: SlotId,
        first: u64,
        bytes: &[u8],
        again: bool,
        send: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Encoded> {
        let mut done = Encoded::default();
        let classes: Vec<Class> = bytes.chunks_exact(self.page).map(|page| self.classify(page)).collect();
        let mut at = 0;
        for same in classes.chunk_by(PartialEq::eq) {
            let (count, start) = (same.len(), at * self.page);
            let pages = &bytes[start..start + count * self.page];
            let run = first + at as u64;
            match same[0] {
                Class::Fill(word) => {
                    self.begin(slot, run, count, if word == 0 { Encoding::Zero } else { Encoding::Word });
                    if word != 0 {
                        self.frame.extend_from_slice(&word.to_le_bytes());
                    }
                    *(if word == 0 { &mut done.zero } else { &mut done.word }) += count as u64;
                }
                Class::Other => {
                    let used = self.other(slot, run, pages);
                    *(if used == Encoding::Delta { &mut done.delta } else { &mut done.normal }) +=
                        count as u64;
                }
            }
            done.bytes += self.frame.len() as u64;
            send(&self.frame)?;
            // A page that is held must not become stale, whoever says that it is sent for the first time.
            if again || !self.held.is_empty() {
                self.hold(slot, run, pages);
            }
            at += count;
        }
        Ok(done)
    }

    /// Keeps copies of `pages`, for as long as they may pay.
    fn hold(&mut self, slot: SlotId, first: u64, pages: &[u8]) {
        if !self.economy.delta_pays() {
            self.held.give_up();
            return;
        }
        let begun = Instant::now();
        let numbered = (first..).zip(pages.chunks_exact(self.page));
        numbered.for_each(|(page, bytes)| self.held.put(slot, page, bytes));
        self.economy.held(pages.len(), begun.elapsed());
    }

    fn classify(&self, page: &[u8]) -> Class {
        if !self.fills {
            return Class::Other;
        }
        let (words, _) = page.as_chunks::<8>();
        match words.split_first() {
            Some((first, rest)) if rest.iter().all(|word| word == first) => {
                Class::Fill(u64::from_le_bytes(*first))
            }
            _ => Class::Other,
        }
    }

    fn begin(&mut self, slot: SlotId, first: u64, count: usize, encoding: Encoding) {
        self.frame.clear();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Run { slot, first, count, encoding }.encode(&mut self.frame);
    }

    /// Encodes pages that are no fill in the way that pays, and returns which.
    fn other(&mut self, slot: SlotId, first: u64, pages: &[u8]) -> Encoding {
        let count = pages.len() / self.page;
        let choice = self.economy.choose(self.held.has_all(slot, first, count));
        let begun = Instant::now();
        self.begin(slot, first, count, choice);
        let header = self.frame.len();
        let done = match choice {
            Encoding::Lz4 => compress_lz4(pages, &mut self.packed, &mut self.frame),
            Encoding::Zstd => compress_zstd(pages, &mut self.packed, &mut self.frame),
            Encoding::Delta => {
                self.scratch.clear();
                self.scratch.extend_from_slice(pages);
                for (page, bytes) in (first..).zip(self.scratch.chunks_exact_mut(self.page)) {
                    if let Some(held) = self.held.get(slot, page) {
                        bytes.iter_mut().zip(held).for_each(|(new, old)| *new ^= old);
                    }
                }
                compress_lz4(&self.scratch, &mut self.packed, &mut self.frame)
            }
            _ => false,
        };
        let used = if done { choice } else { Encoding::Raw };
        if !done {
            // What does not become smaller goes as it is.
            self.begin(slot, first, count, Encoding::Raw);
            self.frame.extend_from_slice(pages);
        }
        self.economy.encoded(choice, pages.len(), self.frame.len() - header, begun.elapsed());
        used
    }
}

/// Appends `pages` as an LZ4 block if that makes them smaller.
fn compress_lz4(pages: &[u8], packed: &mut Vec<u8>, frame: &mut Vec<u8>) -> bool {
    let most = lz4_flex::block::get_maximum_output_size(pages.len());
    match lz4_flex::block::compress_into(pages, room(packed, most)) {
        Ok(length) if length < pages.len() => {
            frame.extend_from_slice(&packed[..length]);
            true
        }
        _ => false,
    }
}

/// Appends `pages` as a zstd frame if that makes them smaller.
fn compress_zstd(pages: &[u8], packed: &mut Vec<u8>, frame: &mut Vec<u8>) -> bool {
    match zstd::bulk::compress_to_buffer(pages, room(packed, pages.len()), ZSTD_LEVEL) {
        Ok(length) => {
            frame.extend_from_slice(&packed[..length]);
            true
        }
        Err(_) => false,
    }
}

/// `bytes` bytes of `packed`, whatever is in them.
fn room(packed: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if packed.len() < bytes {
        packed.resize(bytes, 0);
    }
    &mut packed[..bytes]
}
