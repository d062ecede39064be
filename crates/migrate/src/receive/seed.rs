//! Offering what is here of an old image.

use ringmark_dirty::DirtyPages;

use super::ReceiveError;
use crate::codec::{Ledger, PageStore, Tally, hash_content, hash_seeded};
use crate::link::Link;
use crate::wire::{Hashes, Message, Seed};

/// Pages of one message: half a megabyte of hashes.
const BATCH: u64 = 1 << 16;
/// Pages that are read at a time.
const RUN: u64 = 64;

/// Sends the hashes of `pages`, and enters all of them as if the source had sent them: it sends those that it has otherwise.
pub(super) fn offer(
    control: &mut Link,
    memory: &dyn PageStore,
    pages: &DirtyPages,
    seed: Seed,
    ledger: &Ledger,
) -> Result<(), ReceiveError> {
    let page = usize::try_from(memory.page_size().bytes()).unwrap_or(usize::MAX);
    let mut buffer = Vec::new();
    // Taken anew from the ledger when all is entered.
    let mut tally = Tally::default();
    for (slot, run) in pages.runs() {
        let mut first = run.start;
        while first < run.end {
            let end = run.end.min(first + BATCH);
            let mut hashes = Vec::new();
            let mut at = first;
            while at < end {
                let count = RUN.min(end - at);
                buffer.resize(usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(page), 0);
                memory.read_run(slot, at, &mut buffer)?;
                for (number, bytes) in (at..).zip(buffer.chunks_exact(page)) {
                    hashes.extend_from_slice(&hash_seeded(seed.key, bytes).to_le_bytes());
                    ledger.enter(&mut tally, slot, number, hash_content(bytes));
                }
                at += count;
            }
            Message::Hashes(Hashes { slot: slot.raw(), first, hashes }).send(control)?;
            first = end;
        }
    }
    Ok(())
}
