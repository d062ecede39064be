//! A guest program as a vCPU of the engine.

use std::thread;
use std::time::Duration;

use ringmark_engine::{Exit, Kick, Running, Vcpu};
use ringmark_guest::{Load, Memory, Program, Step};

use crate::codec;
use crate::cpu::{Cpu, CpuError, End, Opaque, Return};
use crate::platform::PlatformError;

/// How long a program without work sleeps: long enough to leave the processor to others, short beside a checkpoint.
const NAP: Duration = Duration::from_micros(200);

/// A guest program whose every load and store goes through the engine.
#[derive(Debug)]
pub(crate) struct SoftCpu {
    vcpu: Vcpu,
    program: Program,
}

impl SoftCpu {
    pub(crate) fn new(vcpu: Vcpu, program: Program) -> Self {
        Self { vcpu, program }
    }

    /// The program whose words [`Cpu::save`] gave.
    pub(crate) fn restore(vcpu: Vcpu, saved: &Opaque) -> Result<Self, PlatformError> {
        let part = format!("vCPU {}", vcpu.id());
        let damaged = |what| PlatformError::State { part: part.clone(), what };
        let words: Vec<u64> = codec::decode(&saved.0).map_err(damaged)?;
        let words = <&[u64; Program::WORDS]>::try_from(words.as_slice())
            .map_err(|_| damaged(format!("it has {} words instead of {}", words.len(), Program::WORDS)))?;
        let program = Program::from_words(words).map_err(|e| damaged(e.to_string()))?;
        Ok(Self { vcpu, program })
    }

    pub(crate) fn kick_handle(&self) -> Kick {
        self.vcpu.kicker()
    }

    fn steps(&mut self) -> Result<std::convert::Infallible, Exit> {
        let mut words = GuestWords(self.vcpu.enter()?);
        loop {
            words.0.poll()?;
            // A step that an exit interrupts goes on with the same store when it is called again.
            match self.program.step(&mut words)? {
                Step::Wrote(_) | Step::Idle | Step::Checking | Step::Checked { .. } => {}
                Step::Holding | Step::Stopped => thread::sleep(NAP),
            }
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
        codec::encode(&self.program.to_words().as_slice()).map(Opaque)
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
