//! The hashes of all pages.

use std::hash::Hasher as _;

use ringmark_dirty::{Gfn, Memslot, SlotId, SlotTable};
use twox_hash::XxHash3_64;

use super::sample::{Sample, Sampled};
use super::walk::{Seen, hash, in_parallel, page_length};
use super::{AuditRate, Changed};
use crate::{Memory, MemoryError};

/// Bytes that are read at a time: few calls into memory, and still in the processor's cache when they are hashed.
const RUN: usize = 128 << 10;
/// Runs that one thread takes at a time: large enough that taking costs nothing, small enough to share out evenly.
const RUNS: usize = 32;

/// Eight bytes for each page of each slot.
#[derive(Clone, Debug)]
pub(super) struct EveryPage {
    slots: Vec<Hashes>,
}

#[derive(Clone, Debug)]
struct Hashes {
    slot: Memslot,
    of_page: Vec<u64>,
}

/// A part of one slot's pages.
struct Piece<'a> {
    slot: &'a Memslot,
    first: u64,
    hashes: &'a mut [u64],
}

impl EveryPage {
    /// Hashes every page.
    pub(super) fn hash(slots: &SlotTable, memory: &dyn Memory) -> Result<Self, MemoryError> {
        let slots = slots.iter().map(|&slot| {
            // A slot that is mapped fits the address space, and so do its hashes.
            let pages = usize::try_from(slot.npages).unwrap_or(usize::MAX);
            Hashes { slot, of_page: vec![0; pages] }
        });
        let mut every = Self { slots: slots.collect() };
        every.observe(memory, |_, _| true)?;
        Ok(every)
    }

    /// Hashes every page anew, and finds those that changed and that `excused` does not excuse.
    pub(super) fn observe(
        &mut self,
        memory: &dyn Memory,
        excused: impl Fn(SlotId, u64) -> bool + Sync,
    ) -> Result<Seen, MemoryError> {
        let page = page_length(memory.page_size());
        let pages_a_run = (RUN / page).max(1);
        let piece = pages_a_run * RUNS;
        let pieces: Vec<Piece<'_>> = self
            .slots
            .iter_mut()
            .flat_map(|Hashes { slot, of_page }| {
                let slot: &Memslot = slot;
                let firsts = (0..).step_by(piece);
                of_page.chunks_mut(piece).zip(firsts).map(move |(hashes, first)| Piece {
                    slot,
                    first,
                    hashes,
                })
            })
            .collect();
        in_parallel(pieces, pages_a_run * page, |piece, buffer, seen| {
            let Piece { slot, first, hashes } = piece;
            for (hashes, first) in hashes.chunks_mut(pages_a_run).zip((first..).step_by(pages_a_run)) {
                let run = &mut buffer[..hashes.len() * page];
                memory.read_run(slot.id, first, run)?;
                for ((old, bytes), offset) in hashes.iter_mut().zip(run.chunks_exact(page)).zip(first..) {
                    let now = hash(bytes);
                    let changed = std::mem::replace(old, now) != now;
                    if !excused(slot.id, offset) {
                        seen.compared += 1;
                        if changed {
                            seen.changed.push(Changed {
                                slot: slot.id,
                                offset,
                                gfn: Gfn(slot.base.0 + offset),
                            });
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// A random share of the pages, with the hashes that are here.
    pub(super) fn thin_out(&self, rate: AuditRate) -> Sample {
        Sample::choose(self.slots.iter().map(|hashes| hashes.slot), rate, |place, slot, offset| {
            let hashes = &self.slots.get(place)?.of_page;
            let hash = *hashes.get(usize::try_from(offset).ok()?)?;
            Some(Sampled { slot: *slot, offset, hash })
        })
    }

    /// One number over all hashes.
    pub(super) fn digest(&self) -> u64 {
        let mut digest = XxHash3_64::new();
        for Hashes { slot, of_page } in &self.slots {
            digest.write(&slot.id.raw().to_le_bytes());
            digest.write(&slot.npages.to_le_bytes());
            of_page.iter().for_each(|hash| digest.write(&hash.to_le_bytes()));
        }
        digest.finish()
    }
}
