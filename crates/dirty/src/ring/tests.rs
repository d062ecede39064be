//! The two ends of a ring against each other, and against models that are too simple to be wrong.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "small numbers; a panic is how a test fails"
)]

mod model;
mod overflow;
mod rules;

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Entry, Harvester, Producer, allocate};
use crate::{Gfn, Memslot, SlotId, SlotTable};

pub(super) const SLOT: SlotId = SlotId::new(0, 5);

/// Both ends of a ring of `size` entries whose counters stand at `index`.
pub(super) fn ring(size: u32, reserve: u32, index: u32) -> (Producer<Arc<[Entry]>>, Harvester<Arc<[Entry]>>) {
    let memory: Arc<[Entry]> = allocate(size).into();
    let producer = Producer::starting_at(Arc::clone(&memory), reserve, index).unwrap();
    (producer, Harvester::from_index(memory, index).unwrap())
}

/// A table in which every page that the tests push is one of [`SLOT`].
pub(super) fn table() -> SlotTable {
    SlotTable::new([Memslot { id: SLOT, base: Gfn(0x100), npages: 1 << 30 }]).unwrap()
}

pub(super) fn reset_all(producer: &Producer<Arc<[Entry]>>) -> Vec<(u32, u64)> {
    core::iter::from_fn(|| producer.reset_next()).collect()
}
