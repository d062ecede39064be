//! Guest memory as the guest programs' library sees it: a word at a time.

use std::sync::atomic::Ordering;

use ringmark_guest::{Load, Memory};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::ram::Ram;

/// Guest memory in words; what is stored through it is marked as written by the monitor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RamWords<'a>(pub(crate) &'a Ram);

impl Load for RamWords<'_> {
    type Error = GuestMemoryError;

    fn load(&mut self, gpa: u64) -> Result<u64, GuestMemoryError> {
        // Acquire: pairs with the guest's stores in program order, as x86 gives them and the engine's release does.
        self.0.guest().load(GuestAddress(gpa), Ordering::Acquire).map(u64::from_le)
    }
}

impl Memory for RamWords<'_> {
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), GuestMemoryError> {
        // Release: a guest that sees this word sees what was stored before it.
        self.0.guest().store(value.to_le(), GuestAddress(gpa), Ordering::Release)
    }
}
