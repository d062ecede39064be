//! Dirty page tracking without a hypervisor: the dirty ring, bitmaps, and sets of pages.
//!
//! A hypervisor that is asked which pages of a guest were written since the last time can answer in two ways. A
//! *bitmap* has a bit for each page of a memslot, and asking costs in the size of memory. A *dirty ring* belongs to
//! one vCPU and has an entry for each page that the vCPU wrote, so asking costs in what was written. This crate is
//! both ends of that ring as KVM defines it, the bitmap that catches what no ring can, and the set that the answers
//! are merged into. It does no I/O and knows no hypervisor: the memory of a ring may be mapped from a kernel or come
//! from the heap.
//!
//! # The ring
//!
//! A ring is an array of 2ⁿ [entries](Entry) in memory that both ends share. An entry names a memslot and a page in
//! it, and its two flags say whose turn it is:
//!
//! | flags | state | who may change it, to what |
//! |---|---|---|
//! | `00` | empty | the [`Producer`] (the kernel) writes slot and offset, then sets `01` |
//! | `01` | dirty | the [`Harvester`] (user space) reads them, then sets `10` |
//! | `10`, `11` | harvested | the producer reads them, write-protects the page again, then sets `00` |
//!
//! Both ends go through the array in order and leave nothing out, each by a counter of its own that the other never
//! sees. *Harvesting* alone makes no room and cleans no page: until the entry was *reset*, a further write to the page
//! is not logged. So reset before the page is read.
//!
//! The order of memory accesses rests on the flags alone. They are loaded with acquire before slot and offset are
//! touched, and stored with release after; [`Entry`] shows which load pairs with which store. This holds on every
//! architecture, also where KVM would let user space do with less.
//!
//! A vCPU leaves the guest while some entries are still free: the ring is *soft-full*. A kernel that lets it run on
//! overwrites entries; [`Harvest::overflow`] notices and [`Harvester::resync`] mends the ring, but what was lost, and
//! that is any page, has to be taken for dirty.
//!
//! # The pieces
//!
//! - [`Gfn`], [`PageSize`], [`Memslot`], [`SlotId`], [`SlotTable`]: the words. A page is named by its slot and its
//!   offset in it, and offsets are checked against the table where they enter.
//! - [`Producer`], [`Harvester`], [`Entry`], [`RingMemory`]: the ring. Every entry that is harvested is held against
//!   the table; one that names no page is an event with a name ([`Harvested`]) and goes back like any other.
//! - [`AtomicBitmap`]: for writers that are no vCPU. Change the page, then set its bit; take the bit, then read the
//!   page.
//! - [`DirtySet`], [`DirtyPages`]: sets of pages of a slot and of all slots, whose costs follow the pages that are in
//!   them, not the size of memory.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use ringmark_dirty::{ring, DirtyPages, Gfn, Harvested, Harvester, Memslot, Producer, SlotId, SlotTable};
//!
//! let ram = SlotId::new(0, 0);
//! let slots = SlotTable::new([Memslot { id: ram, base: Gfn(0), npages: 1 << 28 }])?;
//! let memory: Arc<[_]> = ring::allocate(256).into();
//!
//! // The kernel's end: a vCPU writes three pages.
//! let vcpu = Producer::new(Arc::clone(&memory), 64)?;
//! for page in [7, 8, 1 << 27] {
//!     assert!(!vcpu.push(ram, page).soft_full);
//! }
//!
//! // User space's end takes them.
//! let mut harvester = Harvester::new(memory)?;
//! let mut dirty = DirtyPages::new(&slots);
//! let mut harvest = harvester.harvest(&slots);
//! for entry in harvest.by_ref() {
//!     match entry {
//!         Harvested::Page { slot, offset } => drop(dirty.insert(slot, offset)?),
//!         Harvested::UnknownSlot { .. } | Harvested::PastEnd { .. } => eprintln!("not a page: {entry:?}"),
//!     }
//! }
//! if harvest.overflow() {
//!     dirty.insert_all();
//! }
//! let taken = harvest.taken();
//!
//! // The kernel write-protects what was harvested; only then are the pages read.
//! let reset = std::iter::from_fn(|| vcpu.reset_next()).count();
//! assert_eq!(reset, taken as usize);
//! assert_eq!(dirty.runs().collect::<Vec<_>>(), [(ram, 7..9), (ram, 1 << 27..(1 << 27) + 1)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod addr;
mod bitmap;
mod memslot;
mod pages;
mod set;
mod slots;
mod sync;

pub mod mutant;
pub mod ring;

pub use addr::{Gfn, PageSize};
pub use bitmap::AtomicBitmap;
pub use memslot::{Memslot, SlotId};
pub use pages::{DirtyPages, OutOfRange};
pub use ring::{
    Entry, FLAG_DIRTY, FLAG_RESET, Harvest, Harvested, Harvester, Producer, Pushed, RingError, RingMemory,
};
pub use set::{DirtySet, Pages, Runs};
pub use slots::{SlotTable, SlotTableError};
