//! What a vCPU has to do with interrupts.

use core::arch::asm;

use ringmark_guest::{Command, Config, Control, Driver, Interrupts, Program};

use crate::Beside;
use crate::physical::Physical;

/// Steps of the program from one turn of the driver to the next.
const CYCLE: u32 = 256;
/// Steps of these during which interrupts wait: wherever a machine is cut, some are pending nearly always.
const MASKED: u32 = 192;

/// A vCPU that takes interrupts; the first one also sees that there are some.
pub(crate) struct Interruptions {
    driver: Option<Driver>,
    step: u32,
    checked: u64,
}

impl Interruptions {
    /// Switches the vCPU's interface on; on the first vCPU, also the rest of the interrupt controller.
    pub(crate) fn start(memory: &mut Physical, config: Config, interrupts: Interrupts, vcpu: u64) -> Self {
        let (counts, lpis) = interrupts.handler(&config, vcpu);
        // SAFETY: `boot.s` answers this one call, by which its handler counts in words that are this vCPU's alone
        // (`Interrupts` lays them, and `fits` has seen that they are mapped).
        unsafe { asm!("svc #0", in("x0") counts, in("x1") lpis) };
        let driver = (vcpu == 0).then(|| {
            let mut driver = Driver::new(config, interrupts);
            let Ok(()) = driver.start(memory);
            driver
        });
        Self { driver, step: 0, checked: 0 }
    }
}

impl Beside for Interruptions {
    fn before_step(&mut self, memory: &mut Physical, program: &mut Program, control: Option<Control>) {
        if control.is_some_and(|control| control.command == Command::Run) {
            match self.step {
                0 => {
                    mask();
                    if let Some(driver) = &mut self.driver {
                        let Ok(()) = driver.turn(memory);
                    }
                }
                MASKED => unmask(),
                _ => {}
            }
            self.step = (self.step + 1) % CYCLE;
            return;
        }
        unmask();
        self.step = 0;
        if let (Some(control), Some(driver)) = (control, &mut self.driver)
            && control.command == Command::Check
            && control.number != self.checked
        {
            let Ok(()) = driver.check(memory, |damage| program.note(damage));
            self.checked = control.number;
        }
    }
}

/// Lets interrupts wait.
fn mask() {
    // SAFETY: what the handler does, counting, may happen now or later. `boot.s` allows EL0 to say when.
    unsafe { asm!("msr daifset, #2") };
}

/// Takes them.
fn unmask() {
    // SAFETY: as in `mask`.
    unsafe { asm!("msr daifclr, #2") };
}
