//! On x86-64: from ring 3 on, with interrupts off and no exception handlers. A fault ends the machine with a triple
//! fault, which the monitor reports as a shutdown.

mod compiler_needs;
mod standalone;

use core::arch::{asm, global_asm};

use ringmark_guest::{BootLine, Config, HALT_PORT, Program, StartInfo};

use crate::physical::Physical;
use crate::{halt, refuse, run};

global_asm!(include_str!("x86_64/boot.s"), options(att_syntax));

/// The serial port.
const COM1: u16 = 0x3f8;

/// What `boot.s` maps with pages of 2 MiB, and with pages of 1 GiB where there are any.
const MAPPED: u64 = 16 << 30;
const MAPPED_WITH_HUGE_PAGES: u64 = 512 << 30;

/// Where `boot.s` leads every vCPU.
#[unsafe(no_mangle)]
extern "C" fn start(start_info: u64, vcpu: u64, huge_pages: u64) -> ! {
    let memory = &mut Physical;
    let mut buffer = [0; 1024];
    let info = match StartInfo::load(memory, start_info) {
        Ok(info) => info,
        Err(error) => refuse(vcpu, format_args!("{error}")),
    };
    let Ok(line) = info.command_line(memory, &mut buffer);
    let boot = match BootLine::parse(line) {
        Ok(boot) => boot,
        Err(error) => refuse(vcpu, format_args!("{error}; {}", BootLine::USAGE)),
    };
    let config = match boot.mailbox {
        Some(mailbox) => {
            Config::load(memory, mailbox).unwrap_or_else(|error| refuse(vcpu, format_args!("{error}")))
        }
        None if vcpu == 0 => standalone::prepare(memory, &info, &boot)
            .unwrap_or_else(|error| refuse(vcpu, format_args!("{error}"))),
        None => halt(0),
    };
    if !fits(&config, huge_pages != 0) {
        refuse(vcpu, format_args!("the hot region reaches beyond what this vCPU can map"));
    }
    match Program::new(config, vcpu) {
        Ok(program) => run(program, boot.mailbox.is_none().then_some(boot.check), ()),
        // More vCPUs than writers: the others have nothing to do.
        Err(_) => halt(0),
    }
}

/// Whether the identity map reaches all regions.
fn fits(config: &Config, huge_pages: bool) -> bool {
    let end = if huge_pages { MAPPED_WITH_HUGE_PAGES } else { MAPPED };
    let ends = [
        config.mailbox + config.mailbox_bytes(),
        config.ledger + config.ledger_bytes(),
        config.hot + config.hot_bytes(),
    ];
    ends.into_iter().all(|reach| reach <= end)
}

/// Prints a byte.
pub(crate) fn put(byte: u8) {
    out(COM1, byte);
}

/// Tells the monitor that this vCPU has ended.
pub(crate) fn tell_halted(code: u8) {
    out(HALT_PORT, code);
}

/// Writes `byte` to `port`, which is below 0x400 as the task's port bitmap requires.
fn out(port: u16, byte: u8) {
    // SAFETY: the ports written to, serial and halt, change nothing that this program can see.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags)) };
}
