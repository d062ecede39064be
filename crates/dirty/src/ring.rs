//! The dirty ring: entries in shared memory, the end that writes them and the end that takes them.

mod entry;
mod harvester;
mod memory;
mod producer;
mod resync;
#[cfg(all(test, not(loom)))]
mod tests;

pub use entry::{Entry, FLAG_DIRTY, FLAG_RESET};
pub use harvester::{Harvest, Harvested, Harvester};
pub use memory::{RingError, RingMemory, allocate};
pub use producer::{Producer, Pushed};
