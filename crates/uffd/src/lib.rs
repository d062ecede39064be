//! Page faults answered in user space, and writes found without a hypervisor's help: `userfaultfd(2)` and `PAGEMAP_SCAN`.
//!
//! Two uses, each a type over one mapping of memory:
//!
//! * [`MissingPages`]: a page that is not there yet stops whoever touches it, a vCPU inside `KVM_RUN` included, until a
//!   server has put it in place. It is how a restored guest runs before its memory has arrived.
//! * [`WriteLog`]: which pages were written since the last look, by anyone in this process or by a hypervisor on its
//!   behalf. Pages are write-protected; the kernel resolves the first write to each by itself (asynchronous write
//!   protection) and a scan of the page tables finds and re-protects them in one step. It knows nothing of KVM's logs,
//!   and so can be held against them.
//!
//! [`Userfaultfd`] is the descriptor with its features negotiated; [`probe`] says what this host can do, by trying it.
//!
//! A mapping has at most one userfaultfd (`userfaultfd_register` answers `EBUSY`), so one memory cannot have both uses at
//! once over two descriptors.
//!
//! ```no_run
//! use std::sync::Arc;
//! use ringmark_uffd::{Faults, Features, MissingPages, Userfaultfd};
//!
//! # fn guest_memory() -> (std::ptr::NonNull<u8>, usize) { unimplemented!() }
//! # fn page(_: u64) -> Vec<u8> { unimplemented!() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let uffd = Arc::new(Userfaultfd::open(Faults::All, Features::MISSING_SHMEM)?);
//! let (start, len) = guest_memory();
//! // SAFETY: the memory is shared, never referenced, and outlives `pages`.
//! # #[allow(unsafe_code)]
//! let pages = unsafe { MissingPages::register(&uffd, start, len) }?;
//! loop {
//!     // With poll(2) before, in a server thread.
//!     while let Some(fault) = uffd.next_fault()? {
//!         if let Some(offset) = pages.offset_of(fault.address) {
//!             pages.fill(offset, &page(offset))?;
//!         }
//!     }
//! }
//! # }
//! ```

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the kernel's structures are used with 64-bit addresses only");

mod features;
mod mapping;
mod missing;
mod open;
mod pagemap;
mod probe;
mod sys;
mod write_log;

pub use features::Features;
pub use missing::{FillError, MissingPages};
pub use open::{Fault, Faults, OpenError, Userfaultfd};
pub use probe::{Check, HowOpened, Probe, probe};
pub use write_log::{WriteLog, WriteLogError};
