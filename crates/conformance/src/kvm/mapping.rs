//! What touching a mapping does, asked of a child process.

#![allow(unsafe_code, reason = "reads a mapping that may raise a signal, in a child process")]

use ringmark_kvm::RawMapping;

use crate::fork::{ChildEnd, ask_child};
use crate::target::{Mapping, Probe};

#[derive(Debug)]
pub(super) struct KvmMapping {
    pub(super) mapping: RawMapping,
    pub(super) page_bytes: u64,
}

impl Mapping for KvmMapping {
    fn probe(&self, page: u64) -> Probe {
        let offset = usize::try_from(page.saturating_mul(self.page_bytes)).unwrap_or(usize::MAX);
        if offset >= self.mapping.len() {
            return Probe::Signal(libc::SIGSEGV);
        }
        let address = self.mapping.start().as_ptr().wrapping_add(offset);
        let read = || {
            // SAFETY: the byte lies in the mapping (checked). A signal that the access raises ends this child only.
            unsafe { address.read_volatile() };
            0
        };
        // SAFETY: one volatile read is all that the child does.
        match unsafe { ask_child(read) } {
            Ok(ChildEnd::Code(0)) => Probe::Readable,
            Ok(ChildEnd::Signal(libc::SIGBUS)) => Probe::BusError,
            Ok(ChildEnd::Signal(signal)) => Probe::Signal(signal),
            Ok(ChildEnd::Code(_)) | Err(_) => Probe::Signal(0),
        }
    }
}
