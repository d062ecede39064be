//! A guest program as a vCPU of the engine.

use std::thread;
use std::time::Duration;

use ringmark_abi::Errno;
use ringmark_engine::{Exit, Kick, Running, Vcpu, Vm};
use ringmark_guest::{Config, Interrupts, Load, Memory, Program, Step};
use serde::{Deserialize, Serialize};

use super::driver::{Driver, Taker};
use crate::codec;
use crate::cpu::{Cpu, CpuError, End, Opaque, Return, Wiring};
use crate::platform::PlatformError;

/// How long a program without work sleeps: long enough to leave the processor to others, short beside a checkpoint.
const NAP: Duration = Duration::from_micros(200);
/// Steps of the first vCPU's program for each turn of the driver.
const STEPS_A_TURN: u32 = 32;
/// Steps of a program between two looks at what is pending: longer than a turn, so that a cut nearly always finds
/// interrupts on their way.
const STEPS_MASKED: u32 = 512;

/// A guest program whose every load and store goes through the engine, and the interrupts of its vCPU.
#[derive(Debug)]
pub(crate) struct SoftCpu {
    vcpu: Vcpu,
    vm: Vm,
    /// `None` until it has state.
    program: Option<Program>,
    steps: u32,
    interrupts: Option<Handler>,
}

/// What a vCPU has to do with the interrupt controller.
#[derive(Debug)]
struct Handler {
    config: Config,
    interrupts: Interrupts,
    state: HandlerState,
}

/// What of it is saved.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct HandlerState {
    taker: Taker,
    /// On the first vCPU.
    driver: Option<Driver>,
}

/// A vCPU's state.
#[derive(Serialize, Deserialize)]
struct Saved {
    program: Vec<u64>,
    interrupts: HandlerState,
}

impl SoftCpu {
    pub(crate) fn new(vm: Vm, vcpu: Vcpu, program: Program, wiring: Wiring) -> Self {
        let driver = (vcpu.id() == 0).then(Driver::default);
        let mut cpu = Self::blank(vm, vcpu);
        cpu.set(program, wiring, HandlerState { driver, ..HandlerState::default() });
        cpu
    }

    /// A vCPU whose state comes later.
    pub(crate) const fn blank(vm: Vm, vcpu: Vcpu) -> Self {
        Self { vcpu, vm, program: None, steps: 0, interrupts: None }
    }

    fn set(&mut self, program: Program, wiring: Wiring, state: HandlerState) {
        self.program = Some(program);
        self.interrupts = wiring.map(|(config, interrupts)| Handler { config, interrupts, state });
    }

    pub(crate) fn kick_handle(&self) -> Kick {
        self.vcpu.kicker()
    }

    fn steps(&mut self) -> Result<std::convert::Infallible, Exit> {
        let index = self.vcpu.id();
        let Some(program) = &mut self.program else { return Err(Exit::Failed(Errno::EINVAL)) };
        let mut words = GuestWords(self.vcpu.enter()?);
        loop {
            words.0.poll()?;
            if let Some(Handler { config, interrupts, state }) = &mut self.interrupts {
                // Before the step is counted: whatever an exit interrupts is called again.
                if let Some(driver) = &mut state.driver
                    && self.steps.is_multiple_of(STEPS_A_TURN)
                {
                    driver.step(&mut words, config, interrupts)?;
                }
                if self.steps.is_multiple_of(STEPS_MASKED) {
                    let acknowledge = || self.vm.acknowledge_lpi(index);
                    state.taker.take(&mut words, config, interrupts, index.into(), acknowledge)?;
                }
            }
            // A step that an exit interrupts goes on with the same store when it is called again.
            match program.step(&mut words)? {
                Step::Wrote(_) | Step::Idle | Step::Checking | Step::Checked { .. } => {}
                Step::Holding | Step::Stopped => thread::sleep(NAP),
            }
            self.steps = self.steps.wrapping_add(1);
        }
    }
}

impl Cpu for SoftCpu {
    fn run(&mut self) -> Result<Return, CpuError> {
        let Err(exit) = self.steps();
        match exit {
            Exit::DirtyRingFull => Ok(Return::RingFull),
            Exit::Interrupted => {
                self.vcpu.clear_immediate_exit();
                Ok(Return::Kicked)
            }
            Exit::Mmio { gpa, .. } => Err(CpuError {
                vcpu: self.vcpu.id(),
                what: format!("its program reached for {gpa:#x}, where there is no memory"),
            }),
            Exit::IoIn { .. } => Ok(Return::End(End::Shutdown)),
            Exit::Failed(errno) => {
                Err(CpuError { vcpu: self.vcpu.id(), what: format!("the engine failed: {errno}") })
            }
        }
    }

    fn save(&mut self) -> Result<Opaque, String> {
        let interrupts = self.interrupts.as_ref().map(|handler| handler.state.clone()).unwrap_or_default();
        let program = self.program.as_ref().ok_or("it has no program")?;
        codec::encode(&Saved { program: program.to_words().to_vec(), interrupts }).map(Opaque)
    }

    fn load(&mut self, saved: &Opaque, wiring: Wiring) -> Result<(), PlatformError> {
        let part = format!("vCPU {}", self.vcpu.id());
        let damaged = |what| PlatformError::State { part: part.clone(), what };
        let Saved { program: words, interrupts } = codec::decode(&saved.0).map_err(damaged)?;
        let words = <&[u64; Program::WORDS]>::try_from(words.as_slice())
            .map_err(|_| damaged(format!("it has {} words instead of {}", words.len(), Program::WORDS)))?;
        let program = Program::from_words(words).map_err(|e| damaged(e.to_string()))?;
        self.set(program, wiring, interrupts);
        Ok(())
    }
}

/// Guest memory through a vCPU that is in the guest.
struct GuestWords<'a>(Running<'a>);

impl Load for GuestWords<'_> {
    type Error = Exit;

    fn load(&mut self, gpa: u64) -> Result<u64, Exit> {
        let mut word = [0; 8];
        self.0.load(gpa, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}

impl Memory for GuestWords<'_> {
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), Exit> {
        self.0.store(gpa, &value.to_le_bytes())
    }
}
