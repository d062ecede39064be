//! The bare-metal program: a vCPU's way from ring 3 on.
//!
//! Interrupts stay off and there are no exception handlers: a fault ends the machine with a triple fault, which the
//! monitor reports as a shutdown.

#![no_std]
#![no_main]

mod compiler_needs;
mod console;
mod physical;
mod standalone;

use core::arch::global_asm;
use core::hint::spin_loop;

use console::{out, print};
use physical::{Physical, fits};
use ringmark_guest::{BootLine, Command, Config, Control, HALT_PORT, Program, StartInfo, Step, check_result};

global_asm!(include_str!("boot.s"), options(att_syntax));

/// Polls of the control word are this many pauses apart while there is nothing to do.
const PAUSES: u32 = 64;

/// Pauses between two writes to the halt port.
const PAUSES_HALTED: u32 = 1 << 20;

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
        Ok(program) => run(program, boot.mailbox.is_none().then_some(boot.check)),
        // More vCPUs than writers: the others have nothing to do.
        Err(_) => halt(0),
    }
}

/// The loop; `check_every` is the number of page writes between checks where no monitor asks for them.
fn run(mut program: Program, check_every: Option<u64>) -> ! {
    let memory = &mut Physical;
    let config = *program.config();
    let speaker = program.writer() == 0;
    if speaker {
        let Config { writers, pages, pattern, .. } = config;
        let plural = if writers == 1 { "" } else { "s" };
        print(format_args!("ringmark guest: {writers} vCPU{plural}, {pages} pages, pattern {pattern}\n"));
    }
    loop {
        let Ok(step) = program.step(memory);
        match step {
            Step::Wrote(_) => {
                if let Some(every) = check_every
                    && program.written().is_multiple_of(every)
                {
                    let Ok(()) = config.set_control(memory, Control::check(program.written()));
                }
            }
            Step::Idle => spin_loop(),
            Step::Checking => {}
            Step::Checked { number, .. } => {
                if speaker {
                    announce(memory, &config, number);
                }
                if check_every.is_some() {
                    let Ok(()) = config.set_control(memory, Control::RUN);
                }
            }
            Step::Holding => pause(),
            Step::Stopped => halt(0),
        }
    }
}

/// Prints what all vCPUs found in check `number`, unless the monitor withdraws it before all are done.
fn announce(memory: &mut Physical, config: &Config, number: u64) {
    loop {
        let Ok(control) = config.control(memory);
        let Ok(result) = check_result(memory, config, number);
        if let Some(report) = result {
            return print(format_args!("check: {report}\n"));
        }
        let asked =
            control.is_some_and(|control| control.command == Command::Check && control.number == number);
        if !asked {
            return;
        }
        pause();
    }
}

fn pause() {
    for _ in 0..PAUSES {
        spin_loop();
    }
}

/// Says on vCPU 0 why the program does not run, and halts.
fn refuse(vcpu: u64, why: core::fmt::Arguments<'_>) -> ! {
    if vcpu == 0 {
        print(format_args!("ringmark guest: {why}\n"));
    }
    halt(1)
}

/// Ends this vCPU as well as ring 3 can: tells the monitor, and again whenever it is run all the same. A code other than
/// zero says that it failed.
fn halt(code: u8) -> ! {
    loop {
        out(HALT_PORT, code);
        for _ in 0..PAUSES_HALTED {
            spin_loop();
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print(format_args!("ringmark guest: {info}\n"));
    halt(1)
}
