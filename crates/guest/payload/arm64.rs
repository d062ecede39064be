//! On arm64: from EL0 on. EL1 takes interrupts and does nothing else; an exception is reported on the console.

mod board;
mod compiler_needs;
mod interruptions;

use core::arch::global_asm;

use interruptions::Interruptions;
use ringmark_guest::arm64::{CONSOLE, HALT, IMAGE_END, RAM};
use ringmark_guest::{Board, Config, Interrupts, Program};

use crate::console::print;
use crate::physical::Physical;
use crate::{halt, refuse, run};

global_asm!(include_str!("arm64/boot.s"));

/// First byte that `boot.s` does not map.
const MAPPED: u64 = 512 << 30;

/// Where `boot.s` leads every vCPU.
#[unsafe(no_mangle)]
extern "C" fn start(mailbox: u64, vcpu: u64) -> ! {
    let memory = &mut Physical;
    let config = Config::load(memory, mailbox).unwrap_or_else(|error| refuse(vcpu, format_args!("{error}")));
    let interrupts =
        Interrupts::load(memory, &config).unwrap_or_else(|error| refuse(vcpu, format_args!("{error}")));
    if !fits(&config, interrupts.as_ref()) {
        refuse(vcpu, format_args!("a region or frame lies outside what this program maps for it"));
    }
    let Ok(program) = Program::new(config, vcpu) else {
        // More vCPUs than writers: the others have nothing to do.
        halt(0)
    };
    match interrupts {
        Some(interrupts) => run(program, None, Interruptions::start(memory, config, interrupts, vcpu)),
        None => run(program, None, ()),
    }
}

/// Whether all regions lie in what is mapped as memory, behind the program itself, and all frames in what is not.
fn fits(config: &Config, interrupts: Option<&Interrupts>) -> bool {
    let tables = interrupts.map(|interrupts| (interrupts.area, interrupts.bytes(config)));
    let regions = [
        (config.mailbox, config.mailbox_bytes()),
        (config.ledger, config.ledger_bytes()),
        (config.hot, config.hot_bytes()),
    ];
    let frames = interrupts.map_or(0, |Interrupts { distributor, redistributors, translators, .. }| {
        *distributor.max(redistributors).max(translators)
    });
    let mut regions = regions.into_iter().chain(tables);
    frames < RAM && regions.all(|(start, bytes)| start >= IMAGE_END && start + bytes <= MAPPED)
}

/// Where `boot.s` leads a vCPU after an exception that nobody expects.
#[unsafe(no_mangle)]
extern "C" fn fault(syndrome: u64, from: u64, address: u64) -> ! {
    print(format_args!(
        "ringmark guest: exception with syndrome {syndrome:#x} at {from:#x}, address {address:#x}\n"
    ));
    halt(1)
}

/// Prints a byte.
pub(crate) fn put(byte: u8) {
    Physical.write_half(CONSOLE, byte.into());
}

/// Tells the monitor that this vCPU has ended.
pub(crate) fn tell_halted(code: u8) {
    Physical.write_half(HALT, code.into());
}
