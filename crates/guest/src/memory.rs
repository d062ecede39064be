//! Guest-physical memory as the programs see it: aligned 64-bit loads and stores.

/// Reads guest memory.
pub trait Load {
    /// Why a load or store did not happen: an exit to the monitor, an address outside memory.
    type Error;

    /// The little-endian word at guest-physical address `gpa`, which is a multiple of eight.
    ///
    /// # Errors
    ///
    /// As the implementation says. The word was not read; the caller may try again.
    fn load(&mut self, gpa: u64) -> Result<u64, Self::Error>;
}

/// Writes guest memory.
///
/// Two stores of one caller reach memory in program order: whoever stops the writer between them sees the first and not
/// the second. The certificates rely on nothing else.
pub trait Memory: Load {
    /// Stores `value` at guest-physical address `gpa`, which is a multiple of eight; the word is never torn.
    ///
    /// # Errors
    ///
    /// As the implementation says. The store did *not* happen, and the caller may try again.
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), Self::Error>;
}

impl<L: Load + ?Sized> Load for &mut L {
    type Error = L::Error;

    #[inline]
    fn load(&mut self, gpa: u64) -> Result<u64, Self::Error> {
        (**self).load(gpa)
    }
}

impl<M: Memory + ?Sized> Memory for &mut M {
    #[inline]
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), Self::Error> {
        (**self).store(gpa, value)
    }
}
