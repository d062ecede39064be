//! Many pages of an image, decoded on all cores.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use ringmark_dirty::SlotId;
use ringmark_dirty::mutant::{self, Mutant};

use super::image::Image;
use crate::format::node::{Encoding, Extent, FANOUT, Leaf, Run, RunKind};
use crate::format::page;
use crate::{ImageError, RestoreError};

/// Pages whose places are gathered and sorted at a time: of 4 KiB, four gigabytes in some ten megabytes of memory.
const WINDOW: u64 = 1 << 20;

/// Leaves of the index that are read one after the other.
const LEAVES: usize = 256;

/// Bytes that are read at a time, unless one extent has more.
const SPAN: u64 = 1 << 20;

/// Bytes that are read along rather than leaving them out with a second read.
const GAP: u64 = 32 << 10;

/// What a restore handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Pages handed to the sink.
    pub pages: u64,
    /// Pages that are zero and were skipped.
    pub zero_pages: u64,
    /// Bytes read from packs.
    pub bytes_read: u64,
}

/// First page of its leaf, the leaf, and pages of it.
pub(crate) type Piece = (u64, Leaf, Run);

/// Pieces that are read at once, and where they are.
#[derive(Debug)]
struct Span {
    pieces: Range<usize>,
    pack: u32,
    bytes: Range<u64>,
}

/// Restores the pages in `ranges`, which are sorted and do not overlap, as numbers of the layout.
pub(crate) fn restore<E: Send>(
    image: &Image,
    ranges: &[Range<u64>],
    sink: &(impl Fn(SlotId, u64, &[u8]) -> Result<(), E> + Sync),
) -> Result<Restored, RestoreError<E>> {
    let mut restored = Restored::default();
    let mut pieces: Vec<Piece> = Vec::new();
    for range in ranges {
        let mut first = range.start;
        while first < range.end {
            let end = range.end.min((first / WINDOW + 1) * WINDOW);
            gather(image, first..end, &mut pieces)?;
            restored.zero_pages += end - first;
            first = end;
            if pieces.len() as u64 >= WINDOW / 16 {
                go(image, &mut pieces, sink, &mut restored)?;
            }
        }
    }
    go(image, &mut pieces, sink, &mut restored)?;
    restored.zero_pages -= restored.pages;
    Ok(restored)
}

fn go<E: Send>(
    image: &Image,
    pieces: &mut Vec<Piece>,
    sink: &(impl Fn(SlotId, u64, &[u8]) -> Result<(), E> + Sync),
    restored: &mut Restored,
) -> Result<(), RestoreError<E>> {
    let (pages, read) = run(image, std::mem::take(pieces), sink)?;
    restored.pages += pages;
    restored.bytes_read += read;
    Ok(())
}

/// Adds the pieces of the pages `range` that are not zero.
fn gather(image: &Image, range: Range<u64>, pieces: &mut Vec<Piece>) -> Result<(), ImageError> {
    let leaves = range.start / FANOUT..range.end.div_ceil(FANOUT);
    if leaves.end - leaves.start <= LEAVES as u64 {
        return gather_leaves(image, &range, leaves, pieces);
    }
    let starts: Vec<u64> = leaves.clone().step_by(LEAVES).collect();
    let parts: Vec<Result<Vec<Piece>, ImageError>> = starts
        .par_iter()
        .map(|start| {
            let mut found = Vec::new();
            gather_leaves(image, &range, *start..leaves.end.min(start + LEAVES as u64), &mut found)?;
            Ok(found)
        })
        .collect();
    parts.into_iter().try_for_each(|found| {
        pieces.append(&mut found?);
        Ok(())
    })
}

/// As [`gather`], of the pages of `range` in `leaves`.
fn gather_leaves(
    image: &Image,
    range: &Range<u64>,
    leaves: Range<u64>,
    pieces: &mut Vec<Piece>,
) -> Result<(), ImageError> {
    let mut next = leaves.start;
    image.tree().walk(leaves, &mut |number, leaf: &Leaf| {
        let number = if mutant::active(Mutant::OffsetNotAdvanced) { next } else { number };
        next += 1;
        let first = number * FANOUT;
        let within = |page: u64| u8::try_from(page.saturating_sub(first).min(FANOUT)).unwrap_or_default();
        let (from, to) = (within(range.start), within(range.end));
        pieces.extend(leaf.runs().filter_map(|run| Some((first, leaf.clone(), run.cut(from, to)?))));
        Ok::<_, ImageError>(())
    })
}

/// The stretch of its pack that a piece needs: of an extent that is not compressed, its pages alone.
fn stretch(run: &Run, page: usize) -> Option<(u32, Range<u64>)> {
    let RunKind::Stored { extent, skip } = run.kind else { return None };
    let (start, len) = match extent.encoding {
        Encoding::Raw => (u64::from(skip) * page as u64, u64::from(run.pages) * page as u64),
        Encoding::Zstd => (0, extent.len.into()),
    };
    let start = extent.offset.saturating_add(start);
    Some((extent.pack, start..start.saturating_add(len)))
}

/// Sorts the pieces in the order of the packs, and cuts them into spans.
fn spans(pieces: &mut [Piece], page: usize) -> Vec<Span> {
    let place = |p: &Piece| stretch(&p.2, page).map_or((0, 0), |(pack, bytes)| (pack + 1, bytes.start));
    if !pieces.is_sorted_by_key(place) {
        pieces.par_sort_by_cached_key(place);
    }
    let mut spans: Vec<Span> = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let (pack, bytes) = stretch(&piece.2, page).unwrap_or((u32::MAX, 0..0));
        match spans.last_mut() {
            Some(last)
                if last.pack == pack
                    && bytes.start <= last.bytes.end.saturating_add(GAP)
                    && bytes.end.max(last.bytes.end) - last.bytes.start <= SPAN
                    && last.pieces.len() < 4096 =>
            {
                last.pieces.end = i + 1;
                last.bytes.end = last.bytes.end.max(bytes.end);
            }
            _ => spans.push(Span { pieces: i..i + 1, pack, bytes }),
        }
    }
    spans
}

/// Hands over `pieces`; returns the pages handed over and the bytes read.
pub(crate) fn run<E: Send>(
    image: &Image,
    mut pieces: Vec<Piece>,
    sink: &(impl Fn(SlotId, u64, &[u8]) -> Result<(), E> + Sync),
) -> Result<(u64, u64), RestoreError<E>> {
    let spans = spans(&mut pieces, image.layout().page_bytes());
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (pages, read) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<RestoreError<E>>> = Mutex::new(None);
    let work = || {
        let mut loader = Loader { image, sink, stored: Vec::new(), raw: Vec::new() };
        while !stop.load(Ordering::Relaxed) {
            let Some(span) = spans.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            match loader.load(span, &pieces[span.pieces.clone()]) {
                Ok(handed) => {
                    pages.fetch_add(handed, Ordering::Relaxed);
                    read.fetch_add(span.bytes.end - span.bytes.start, Ordering::Relaxed);
                }
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        }
    };
    let readers = image.tree().packs.readers().min(spans.len());
    std::thread::scope(|scope| {
        for _ in 1..readers {
            // With fewer threads it takes longer; this one is always there.
            let _ = std::thread::Builder::new().name("image-restore".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok((pages.into_inner(), read.into_inner())),
    }
}

/// What one thread loads with.
struct Loader<'a, S> {
    image: &'a Image,
    sink: &'a S,
    stored: Vec<u8>,
    raw: Vec<u8>,
}

impl<E, S: Fn(SlotId, u64, &[u8]) -> Result<(), E>> Loader<'_, S> {
    fn load(&mut self, span: &Span, pieces: &[Piece]) -> Result<u64, RestoreError<E>> {
        let page = self.image.layout().page_bytes();
        let len = usize::try_from(span.bytes.end - span.bytes.start).unwrap_or(usize::MAX);
        self.stored.resize(len, 0);
        if len > 0 {
            self.image.tree().packs.read(span.pack, span.bytes.start, &mut self.stored)?;
        }
        let mut handed = 0;
        let mut decoded: Option<Extent> = None;
        for (first, leaf, run) in pieces {
            let number = first + u64::from(run.first);
            let size = usize::from(run.pages) * page;
            let RunKind::Stored { extent, skip } = run.kind else {
                self.raw.resize(size, 0);
                decoded = None;
                for (i, contents) in (0..run.pages).zip(self.raw.chunks_exact_mut(page)) {
                    page::repeat(contents, leaf.word(run, i));
                }
                self.hand(number, &self.raw)?;
                handed += u64::from(run.pages);
                continue;
            };
            let at = |offset: u64| usize::try_from(offset - span.bytes.start).unwrap_or(usize::MAX);
            let bytes = match extent.encoding {
                Encoding::Raw => {
                    let start = at(extent.offset + u64::from(skip) * page as u64);
                    &self.stored[start..start + size]
                }
                Encoding::Zstd => {
                    if decoded != Some(extent) {
                        let start = at(extent.offset);
                        let stored = &self.stored[start..start + extent.len as usize];
                        self.raw.resize(usize::from(extent.pages) * page, 0);
                        self.image.checker().decode(&extent, stored, &mut self.raw)?;
                        decoded = Some(extent);
                    }
                    let start = usize::from(skip) * page;
                    &self.raw[start..start + size]
                }
            };
            for (i, contents) in (0..run.pages).zip(bytes.chunks_exact(page)) {
                let hash = leaf.word(run, i);
                self.image.checker().check_page(number + u64::from(i), &extent, contents, hash)?;
            }
            self.hand(number, bytes)?;
            handed += u64::from(run.pages);
        }
        Ok(handed)
    }

    /// Hands over consecutive pages, slot by slot.
    fn hand(&self, mut number: u64, mut bytes: &[u8]) -> Result<(), RestoreError<E>> {
        let page = self.image.layout().page_bytes();
        while !bytes.is_empty() {
            let Some((slot, offset, left)) = self.image.layout().place(number) else { break };
            let pages = left.min((bytes.len() / page) as u64);
            let (now, rest) = bytes.split_at(usize::try_from(pages).unwrap_or(usize::MAX) * page);
            (self.sink)(slot, offset, now).map_err(|source| RestoreError::Sink { slot, offset, source })?;
            (number, bytes) = (number + pages, rest);
        }
        Ok(())
    }
}
