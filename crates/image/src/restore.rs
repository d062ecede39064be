//! All pages of a chain, decoded on all cores.

use std::fs::File;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use ringmark_dirty::SlotId;

use crate::index::ZERO;
use crate::layer::Layer;
use crate::resolve::Piece;
use crate::{ImageError, RestoreError};

/// Extents decoded at a time; at most 4 MiB with pages of up to 128 KiB.
const BATCH: usize = 32;

/// Batches in memory: one with the sink, one waiting, one being decoded.
const BATCHES: usize = 3;

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

/// An extent to decode, and the pieces of it that are in force.
#[derive(Debug, Default)]
struct Job {
    pieces: Range<usize>,
    stored: Vec<u8>,
    raw: Vec<u8>,
    read: u64,
}

pub(crate) fn restore<E>(
    layers: &[Layer],
    pieces: &[Piece],
    mut sink: impl FnMut(SlotId, u64, &[u8]) -> Result<(), E>,
) -> Result<Restored, RestoreError<E>> {
    let mut restored = Restored::default();
    let mut stored: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        if piece.run.extent == ZERO {
            restored.zero_pages += u64::from(piece.run.npages);
        } else {
            stored.push(*piece);
        }
    }
    // By pack and extent, so that packs are read from front to back and every extent is decoded once.
    stored.par_sort_unstable_by_key(|p| (p.layer, p.run.extent, p.run.skip));
    let pieces = &stored[..];

    std::thread::scope(|scope| {
        let (decoded, to_sink) = sync_channel::<Result<Vec<Job>, ImageError>>(BATCHES);
        let (emptied, empty) = sync_channel::<Vec<Job>>(BATCHES);
        for _ in 0..BATCHES {
            // The channel has room for all batches.
            let _ = emptied.try_send(Vec::new());
        }
        let decoder =
            std::thread::Builder::new().name("image-decode".to_owned()).spawn_scoped(scope, move || {
                let mut rest = 0;
                while rest < pieces.len() {
                    // The sink has refused when nobody sends batches back.
                    let Ok(mut jobs) = empty.recv() else { return };
                    let result = decode_batch(layers, pieces, &mut rest, &mut jobs).map(|()| jobs);
                    let failed = result.is_err();
                    if decoded.send(result).is_err() || failed {
                        return;
                    }
                }
            });
        if let Err(source) = decoder {
            return Err(ImageError::Io { path: layers[0].pack_path(), source }.into());
        }
        for batch in to_sink {
            let jobs = batch?;
            for job in &jobs {
                restored.bytes_read += job.read;
                for piece in &pieces[job.pieces.clone()] {
                    let (slot, offset) = (SlotId::from_raw(piece.run.slot), u64::from(piece.run.first));
                    let page = layers[piece.layer as usize].page_bytes();
                    let start = piece.run.skip as usize * page;
                    let bytes = &job.raw[start..start + piece.run.npages as usize * page];
                    sink(slot, offset, bytes).map_err(|source| RestoreError::Sink {
                        slot,
                        offset,
                        source,
                    })?;
                    restored.pages += u64::from(piece.run.npages);
                }
            }
            // The decoder has ended if it takes none back.
            let _ = emptied.send(jobs);
        }
        Ok(restored)
    })
}

/// Decodes the next extents of one layer, from piece `rest` on, and moves `rest` behind them.
fn decode_batch(
    layers: &[Layer],
    pieces: &[Piece],
    rest: &mut usize,
    jobs: &mut Vec<Job>,
) -> Result<(), ImageError> {
    let key = |p: &Piece| (p.layer, p.run.extent);
    let layer = pieces[*rest].layer;
    let mut count = 0;
    while count < BATCH && *rest < pieces.len() && pieces[*rest].layer == layer {
        let same = pieces[*rest..].iter().take_while(|p| key(p) == key(&pieces[*rest])).count();
        if jobs.len() == count {
            jobs.push(Job::default());
        }
        jobs[count].pieces = *rest..*rest + same;
        *rest += same;
        count += 1;
    }
    jobs.truncate(count);
    let layer = &layers[layer as usize];
    let pack = layer.pack()?;
    jobs.par_iter_mut().try_for_each(|job| decode(layer, &pack, pieces, job))
}

fn decode(layer: &Layer, pack: &File, pieces: &[Piece], job: &mut Job) -> Result<(), ImageError> {
    let pieces = &pieces[job.pieces.clone()];
    job.read = layer.decode(pack, pieces[0].run.extent, &mut job.stored, &mut job.raw)?;
    pieces.iter().try_for_each(|piece| layer.checked(&piece.run, &job.raw).map(drop))
}
