//! Dirty page tracking without a hypervisor.
//!
//! (The crate's page of prose goes here.)

#![no_std]

extern crate alloc;

mod addr;
mod slots;

pub use addr::{Gfn, PageSize};
pub use slots::{Memslot, SlotId, SlotTable, SlotTableError};
