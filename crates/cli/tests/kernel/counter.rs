//! The counting kernel as an ELF image, and what it says.
#![allow(unsafe_code, reason = "the kernel's bytes lie between two labels of its assembly text")]

use crate::common::elf::{self, Class};
use crate::common::process::Running;
use crate::common::wait_for;

core::arch::global_asm!(include_str!("counter.s"), options(att_syntax));

const CODE: u32 = 0x20_0000;
/// Page tables, the copy of the counter and the stack.
const DATA: u64 = 0x30_0000;
const DATA_BYTES: u64 = 0xb000;
/// Rounds from one line to the next.
pub(crate) const STEP: u64 = 16;

unsafe extern "C" {
    static counter_begin: u8;
    static counter_end: u8;
}

fn code() -> &'static [u8] {
    let (begin, end) = (&raw const counter_begin, &raw const counter_end);
    // SAFETY: both labels are of one section of initialised read-only data, which counter.s fills between them.
    unsafe { std::slice::from_raw_parts(begin, usize::try_from(end.offset_from(begin)).unwrap()) }
}

/// The kernel, with its PVH note in front of an unrelated one.
pub(crate) fn image(class: Class) -> Vec<u8> {
    let code = code();
    let machine = if class == Class::Elf64 { elf::EM_X86_64 } else { elf::EM_386 };
    let width = if class == Class::Elf64 { 8 } else { 4 };
    let segments = [
        elf::load(CODE.into(), code.len() as u64, code),
        elf::pvh_note(CODE, width),
        elf::load(DATA, DATA_BYTES, &[]),
        elf::other_note(),
    ];
    elf::image(class, machine, &segments)
}

/// What a running kernel printed from line `from` on: the counter of each tick, of which each follows the one before.
/// The first line of a restored machine may be the rest of one that was begun before the cut.
pub(crate) fn ticks(machine: &Running, from: usize) -> Vec<u64> {
    let lines = machine.lines(from);
    if let Some(bad) = lines.iter().find(|line| line.contains("BAD")) {
        panic!("the guest found damage: {bad}");
    }
    let ticks: Vec<u64> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("tick "))
        .map(|number| u64::from_str_radix(number, 16).unwrap())
        .collect();
    let follows = |pair: &[u64]| pair[1] == pair[0] + STEP;
    assert!(ticks.windows(2).all(follows), "the counter jumped: {ticks:x?}");
    ticks
}

/// The newest tick.
pub(crate) fn now(machine: &Running) -> u64 {
    wait_for("a tick", || ticks(machine, 0).last().copied())
}

/// Waits for `count` more ticks, and gives the newest.
pub(crate) fn after(machine: &Running, count: u64) -> u64 {
    let until = now(machine) + count * STEP;
    wait_for("more ticks", || Some(now(machine)).filter(|tick| *tick >= until))
}
