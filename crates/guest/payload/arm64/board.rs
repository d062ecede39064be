//! Registers of devices through the identity map, and the time.

use core::arch::asm;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

use ringmark_guest::Board;

use crate::physical::Physical;

/// Spins between two looks at the time.
const SPINS: u32 = 64;
/// Microseconds that pass between two looks at the most: what is more was no time in which this vCPU ran.
const MOST: u64 = 1000;

impl Board for Physical {
    fn read(&mut self, address: u64) -> u64 {
        let value;
        // SAFETY: the address is that of a device's register, in the part of the map that is device memory. One load
        // without write-back, so that a hypervisor can emulate it.
        unsafe {
            asm!("ldr {value}, [{address}]", "dsb sy", value = out(reg) value, address = in(reg) address)
        };
        value
    }

    fn write(&mut self, address: u64, value: u64) {
        // SAFETY: as in `read`. What such a store makes a device do with memory, it does with that which is the
        // device's.
        unsafe {
            asm!("dsb sy", "str {value}, [{address}]", value = in(reg) value, address = in(reg) address)
        };
    }

    fn write_half(&mut self, address: u64, value: u32) {
        // SAFETY: as in `write`.
        unsafe {
            asm!("dsb sy", "str {value:w}, [{address}]", value = in(reg) value, address = in(reg) address)
        };
    }

    fn pause(&mut self) -> u64 {
        for _ in 0..SPINS {
            spin_loop();
        }
        let (now, frequency): (u64, u64);
        // SAFETY: reads the virtual counter and its frequency, which `boot.s` allows.
        unsafe {
            asm!("isb", "mrs {now}, cntvct_el0", "mrs {frequency}, cntfrq_el0",
                now = out(reg) now, frequency = out(reg) frequency, options(nomem, nostack));
        }
        let ticks = now.saturating_sub(LAST.load(Ordering::Relaxed));
        LAST.store(now, Ordering::Relaxed);
        (ticks.saturating_mul(1_000_000) / frequency.max(1)).min(MOST)
    }
}

/// The counter at the last look. The first vCPU alone looks.
static LAST: AtomicU64 = AtomicU64::new(0);
