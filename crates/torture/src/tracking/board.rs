//! What both hypervisors' small VMs have in common.

use std::sync::Arc;

use fastrand::Rng;
use ringmark_abi::Vm;
use ringmark_dirty::RingMemory;
use ringmark_probe::{Interrupt, Ram};
use ringmark_track::{BoxError, Method};

/// A small VM.
pub(crate) trait Board: Send + Sync {
    /// The VM, to be tracked.
    fn vm(&self) -> Arc<dyn Vm>;

    /// Its memory.
    fn ram(&self) -> &Ram;

    /// How it is tracked.
    fn method(&self) -> Method;

    /// How a reset of it is interrupted.
    fn interrupt(&self) -> Interrupt;

    /// vCPU `id`, whose stores follow from `rng`.
    fn cpu(&self, id: u32, rng: &mut Rng) -> Result<Box<dyn Cpu>, BoxError>;

    /// Stores `value` to page `page` as the kernel does with no vCPU running; `false` where it does no such thing.
    fn kernel_write(&self, page: u64, value: u64) -> Result<bool, BoxError>;

    /// Deletes every slot and makes it anew. No vCPU may run.
    fn recreate_slots(&self) -> Result<(), BoxError>;

    /// Plays a fault of the kernel's that no call shows, if there is one to be played; its name.
    fn play(&self, rng: &mut Rng) -> Option<&'static str>;

    /// Whether its kernel is known to have no fault of its own.
    fn is_sound(&self) -> bool;

    /// How often a reset flushed late.
    fn late_flushes(&self) -> u64;

    /// Pages that are lost to every log, where the VM knows; meaningful while no fault was played.
    fn lost(&self) -> Vec<(u16, u64)>;
}

/// A vCPU that stores to random pages for ever.
pub(crate) trait Cpu: Send {
    /// The memory of its ring.
    fn ring_memory(&self) -> Option<Arc<dyn RingMemory>>;

    /// What makes it leave the guest.
    fn kick(&self) -> Box<dyn Fn() + Send + Sync>;

    /// Runs until something is to be done.
    fn run(&mut self) -> Result<Stop, BoxError>;

    /// Finishes what the last exit left: after it the vCPU stands still.
    fn settle(&mut self) -> Result<(), BoxError>;

    /// The vCPU is about to run again: kicks of before are over.
    fn unkick(&mut self);
}

/// Why a vCPU left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its ring is full.
    RingFull,
    /// A kick or a signal.
    Interrupted,
}
