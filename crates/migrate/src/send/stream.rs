//! One connection for pages, at the source.

use std::collections::VecDeque;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, PageSize, SlotId, SlotTable};
use ringmark_track::Memory;

use super::DepartError;
use super::frontier::Frontier;
use crate::codec::{Encoded, Encoder, Ledger, Seeded, Tally, hash_content};
use crate::limit::Limiter;
use crate::link::Link;
use crate::wire::frame::{self, FrameError, LAST};
use crate::wire::{Encoding, Kind, Run};

/// Pages that are read and sent at a time, and the granule in which pages are dealt out to streams.
pub(super) const CHUNK: u64 = 64;
/// Bytes on their way without an acknowledgement: what a destination that stops reading is owed at most, and far more
/// than a link of 10 Gbit/s and 5 ms holds.
const WINDOW: u64 = 8 << 20;
/// Small frames, of zeros and words, are sent together.
const BUFFER: usize = 64 << 10;

/// In which order the pages of a round are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    /// In any: which pages are still to be read has nothing to do with which ones the guest writes next, or most.
    Shuffled,
}

/// What all streams of a round share.
pub(super) struct Round<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) pages: &'a DirtyPages,
    /// Pages that are holes: zeros that need no reading.
    pub(super) holes: Option<&'a DirtyPages>,
    /// What the destination has of an old image.
    pub(super) seeded: Option<&'a Seeded>,
    pub(super) ledger: &'a Ledger,
    /// For whoever harvests beside the round.
    pub(super) frontier: Option<&'a Frontier>,
    pub(super) limiter: &'a Limiter,
    pub(super) cancel: &'a AtomicBool,
    pub(super) number: u32,
    pub(super) streams: u64,
    pub(super) order: Order,
    /// Nothing follows: it is not waited for.
    pub(super) last: bool,
}

impl Round<'_> {
    /// The pages that the stream of this number sends, in pieces.
    fn chunks(&self, stream: u64) -> impl Iterator<Item = (SlotId, Range<u64>)> {
        let pieces = self.pages.runs().flat_map(|(slot, run)| {
            let inner = run.start / CHUNK..run.end.div_ceil(CHUNK);
            inner.map(move |chunk| {
                (slot, chunk, run.start.max(chunk * CHUNK)..run.end.min((chunk + 1) * CHUNK))
            })
        });
        // A page is always the same stream's, so that a later copy of it never overtakes an earlier one.
        let own = pieces.filter(move |(_, chunk, _)| chunk % self.streams == stream);
        own.map(|(slot, _, pages)| (slot, pages))
    }
}

/// One stream.
#[derive(Debug)]
pub(super) struct Outgoing {
    link: BufWriter<Link>,
    encoder: Encoder,
    index: u64,
    page: usize,
    /// The hash of a page of zeros.
    zero: u64,
    sent: u64,
    acknowledged: u64,
    tally: Tally,
    buffer: Vec<u8>,
    /// Spent on pages that are no holes, waits included, and their bytes.
    paged: (Duration, u64),
    /// Pages on their way, with the bytes that were sent by their end.
    unconfirmed: VecDeque<(u64, SlotId, Range<u64>)>,
    /// Pages of the round that are in the destination's memory.
    confirmed: DirtyPages,
}

impl Outgoing {
    pub(super) fn new(
        link: Link,
        index: u64,
        page_size: PageSize,
        allowed: &[Encoding],
        held: usize,
        slots: &SlotTable,
    ) -> Self {
        let page = usize::try_from(page_size.bytes()).unwrap_or(usize::MAX);
        Self {
            link: BufWriter::with_capacity(BUFFER, link),
            encoder: Encoder::new(page_size, allowed, held),
            index,
            page,
            zero: hash_content(&vec![0; page]),
            sent: 0,
            acknowledged: 0,
            tally: Tally::default(),
            buffer: Vec::new(),
            paged: (Duration::ZERO, 0),
            unconfirmed: VecDeque::new(),
            confirmed: DirtyPages::new(slots),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// What pages that are no holes cost so far: time, waits included, and bytes.
    pub(super) fn paged(&self) -> (Duration, u64) {
        self.paged
    }

    /// Pages of the round under way that are in the destination's memory, as far as it has said.
    pub(super) fn confirmed(&self) -> &DirtyPages {
        &self.confirmed
    }

    /// Pages were sent; and some of those before may have been acknowledged by now.
    fn sent_run(&mut self, slot: SlotId, first: u64, count: u64) {
        self.unconfirmed.push_back((self.sent, slot, first..first + count));
        while let Some((_, slot, pages)) =
            self.unconfirmed.pop_front_if(|(end, ..)| *end <= self.acknowledged)
        {
            if let Some(set) = self.confirmed.slot_mut(slot) {
                set.insert_range(pages);
            }
        }
    }

    /// Sends this stream's share of a round, and returns when the destination has it in memory.
    pub(super) fn round(&mut self, round: &Round<'_>) -> Result<Encoded, DepartError> {
        let done = self.share(round)?;
        self.settle(round)?;
        Ok(done)
    }

    /// Sends this stream's share of a round and its barrier.
    pub(super) fn share(&mut self, round: &Round<'_>) -> Result<Encoded, DepartError> {
        let mut done = Encoded::default();
        // The barrier of the round before has confirmed whatever was sent by then.
        self.unconfirmed.clear();
        drop(self.confirmed.take());
        let own = round.chunks(self.index);
        let chunks: Box<dyn Iterator<Item = _>> = match round.order {
            Order::Ascending => Box::new(own),
            Order::Shuffled => {
                let mut chunks: Vec<_> = own.collect();
                fastrand::shuffle(&mut chunks);
                Box::new(chunks.into_iter())
            }
        };
        for (slot, pages) in chunks {
            let (first, count) = (pages.start, pages.end - pages.start);
            done.add(self.chunk(round, slot, first, count)?);
            self.sent_run(slot, first, count);
        }
        let last = if round.last { LAST } else { 0 };
        frame::send(&mut self.link, Kind::Barrier, &(u64::from(round.number) | last).to_le_bytes())?;
        self.link.flush()?;
        Ok(done)
    }

    /// Waits until the destination has everything in memory that was sent before, unless nothing follows.
    pub(super) fn settle(&mut self, round: &Round<'_>) -> Result<(), DepartError> {
        if round.last {
            return Ok(());
        }
        let begun = Instant::now();
        loop {
            let frame = frame::receive(self.link.get_mut())?;
            match frame.kind {
                Kind::Acknowledgement => {
                    self.acknowledged = advanced(&frame.payload, self.sent, self.acknowledged)?;
                }
                Kind::Barrier if frame.payload == u64::from(round.number).to_le_bytes() => {
                    self.paged.0 += begun.elapsed();
                    return Ok(());
                }
                found => return Err(FrameError::Unexpected { found, expected: Kind::Barrier }.into()),
            }
        }
    }

    fn chunk(
        &mut self,
        round: &Round<'_>,
        slot: SlotId,
        first: u64,
        count: u64,
    ) -> Result<Encoded, DepartError> {
        if round.cancel.load(Ordering::Relaxed) {
            return Err(DepartError::Cancelled);
        }
        // Before anything of it is read.
        if let Some(frontier) = round.frontier {
            frontier.reach(slot, first..first + count);
        }
        let is_hole = |page| round.holes.is_some_and(|holes| holes.contains(slot, page));
        if (first..first + count).all(is_hole) {
            return self.zeros(round, slot, first, count);
        }
        let (begun, before) = (Instant::now(), self.sent);
        let length = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(self.page);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(length, 0);
        let read = round.memory.read_run(slot, first, &mut buffer);
        let result = read.map_err(DepartError::Memory).and_then(|()| match round.seeded {
            Some(seeded) => self.send_new(round, seeded, slot, first, &buffer),
            None => self.send(round, slot, first, &buffer),
        });
        self.buffer = buffer;
        self.paged.0 += begun.elapsed();
        self.paged.1 += self.sent - before;
        result
    }

    /// Sends what the destination has not.
    fn send_new(
        &mut self,
        round: &Round<'_>,
        seeded: &Seeded,
        slot: SlotId,
        first: u64,
        bytes: &[u8],
    ) -> Result<Encoded, DepartError> {
        let mut done = Encoded::default();
        let pages: Vec<(u64, &[u8])> = (first..).zip(bytes.chunks_exact(self.page)).collect();
        let has: Vec<bool> = pages.iter().map(|(page, bytes)| seeded.has(slot, *page, bytes)).collect();
        let mut at = 0;
        for same in has.chunk_by(PartialEq::eq) {
            let (start, end) = (at, at + same.len());
            at = end;
            if same[0] {
                // As if it had been sent: the digest says in the end whether it is there.
                for (page, bytes) in &pages[start..end] {
                    round.ledger.enter(&mut self.tally, slot, *page, hash_content(bytes));
                }
                done.known += same.len() as u64;
            } else {
                let bytes = &bytes[start * self.page..end * self.page];
                done.add(self.send(round, slot, first + start as u64, bytes)?);
            }
        }
        Ok(done)
    }

    fn send(
        &mut self,
        round: &Round<'_>,
        slot: SlotId,
        first: u64,
        bytes: &[u8],
    ) -> Result<Encoded, DepartError> {
        for (page, bytes) in (first..).zip(bytes.chunks_exact(self.page)) {
            round.ledger.enter(&mut self.tally, slot, page, hash_content(bytes));
        }
        let Self { link, encoder, sent, acknowledged, .. } = self;
        let (mut wire, mut time) = (0, Duration::ZERO);
        let encoded = encoder.encode(slot, first, bytes, round.number > 1, &mut |frame| {
            let begun = Instant::now();
            round.limiter.take(frame.len());
            frame::send(link, Kind::Pages, frame)?;
            *sent += frame.len() as u64;
            window(link, *sent, acknowledged)?;
            wire += frame.len();
            time += begun.elapsed();
            Ok(())
        })?;
        encoder.economy().sent(wire, time);
        Ok(encoded)
    }

    fn zeros(
        &mut self,
        round: &Round<'_>,
        slot: SlotId,
        first: u64,
        count: u64,
    ) -> Result<Encoded, DepartError> {
        for page in first..first + count {
            round.ledger.enter(&mut self.tally, slot, page, self.zero);
        }
        let mut frame = Vec::new();
        let run =
            Run { slot, first, count: u32::try_from(count).unwrap_or(u32::MAX), encoding: Encoding::Zero };
        run.encode(&mut frame);
        frame::send(&mut self.link, Kind::Pages, &frame)?;
        self.sent += frame.len() as u64;
        Ok(Encoded { zero: count, bytes: frame.len() as u64, ..Encoded::default() })
    }
}

/// Waits while too much is on its way.
fn window(link: &mut BufWriter<Link>, sent: u64, acknowledged: &mut u64) -> std::io::Result<()> {
    while sent.saturating_sub(*acknowledged) > WINDOW {
        link.flush()?;
        let payload = frame::expect(link.get_mut(), Kind::Acknowledgement).map_err(std::io::Error::other)?;
        *acknowledged = advanced(&payload, sent, *acknowledged)?;
    }
    Ok(())
}

/// What an acknowledgement says, which has to be more than the one before and no more than was sent: a peer cannot keep
/// this side waiting by saying nothing again and again.
fn advanced(payload: &[u8], sent: u64, before: u64) -> std::io::Result<u64> {
    let bytes = payload.as_array().copied().map(u64::from_le_bytes);
    bytes.filter(|bytes| (before + 1..=sent).contains(bytes)).ok_or_else(|| {
        let what =
            format!("the other side acknowledged {bytes:?} bytes after {before}, of {sent} that were sent");
        std::io::Error::new(std::io::ErrorKind::InvalidData, what)
    })
}
