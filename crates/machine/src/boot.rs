//! Putting a guest into memory.

pub mod elf;
pub mod pvh;
