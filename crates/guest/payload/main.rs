//! The bare-metal program: a vCPU's way from user mode on.

#![no_std]
#![no_main]

#[cfg(target_arch = "aarch64")]
mod arm64;
mod console;
mod physical;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use core::hint::spin_loop;

#[cfg(target_arch = "aarch64")]
use arm64 as arch;
use console::print;
use physical::Physical;
use ringmark_guest::{Command, Config, Control, Program, Step, check_result};
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

/// Polls of the control word are this many pauses apart while there is nothing to do.
const PAUSES: u32 = 64;

/// Pauses between two times that an ended vCPU says so.
const PAUSES_HALTED: u32 = 1 << 20;

/// What a vCPU does beside its program.
pub(crate) trait Beside {
    /// Before each step of the program, by the same control word.
    fn before_step(&mut self, memory: &mut Physical, program: &mut Program, control: Option<Control>);
}

/// Nothing.
impl Beside for () {
    fn before_step(&mut self, _: &mut Physical, _: &mut Program, _: Option<Control>) {}
}

/// The loop; `check_every` is the number of page writes between checks where no monitor asks for them.
fn run(mut program: Program, check_every: Option<u64>, mut beside: impl Beside) -> ! {
    let memory = &mut Physical;
    let config = *program.config();
    let speaker = program.writer() == 0;
    if speaker {
        let Config { writers, pages, pattern, .. } = config;
        let plural = if writers == 1 { "" } else { "s" };
        print(format_args!("ringmark guest: {writers} vCPU{plural}, {pages} pages, pattern {pattern}\n"));
    }
    loop {
        let Ok(control) = config.control(memory);
        beside.before_step(memory, &mut program, control);
        let Ok(step) = program.step_by(memory, control);
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

/// Ends this vCPU as well as user mode can: tells the monitor, and again whenever it is run all the same. A code other
/// than zero says that it failed.
fn halt(code: u8) -> ! {
    loop {
        arch::tell_halted(code);
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
