//! The serial port COM1, written only. Virtual ports take every byte at once, so nothing waits for them.

use core::arch::asm;
use core::fmt::{self, Write};

const COM1: u16 = 0x3f8;

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            out(COM1, byte);
        }
        Ok(())
    }
}

/// Writes `byte` to `port`, which is below 0x400 as the task's port bitmap requires.
pub(crate) fn out(port: u16, byte: u8) {
    // SAFETY: the ports written to, serial and halt, change nothing that this program can see.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags)) };
}

pub(crate) fn print(text: fmt::Arguments<'_>) {
    // The console never fails.
    let _ = Console.write_fmt(text);
}
