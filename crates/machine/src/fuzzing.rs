//! The decoders of what an image or a peer says of a machine, given bytes that nobody wrote.
//!
//! Each function takes what a fuzzer makes up and returns; a panic, a hang or memory without bound is what is looked for.
//! The crate's tests call them for a bounded time with seeds from real machines, on the stable toolchain; the targets in
//! the repository's `fuzz` directory call them under libFuzzer.

mod noise;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::sync::{Arc, LazyLock};

use ringmark_guest::Pattern;
use ringmark_image::fuzzing::Memory;
use ringmark_image::{Image, Store};
use ringmark_kvm::VmState;
use ringmark_track::Wish;

use crate::devices::SerialPort;
use crate::migrate::Needs;
use crate::saved::{self, MachineSaved};
use crate::{
    Boot, CheckpointOptions, GuestSpec, HypervisorWish, Loading, Machine, MachineConfig, RestoreOptions,
    SavedRegisters, codec, working_set,
};

/// Bytes as the state of a machine, down to the registers of its vCPUs.
pub fn state(bytes: &[u8]) {
    let Ok(saved) = MachineSaved::decode(bytes) else { return };
    let _ = SavedRegisters::of_state(&saved);
    let _ = crate::machine::blueprint_of(&saved);
    let _ = codec::decode::<VmState>(&saved.platform.devices.0);
    let port = SerialPort::new(None, Box::new(io::sink()));
    if port.load(&saved.serial).is_ok() {
        let _ = (port.read(0), port.read(5));
    }
    again(&saved, MachineSaved::encode, MachineSaved::decode);
}

/// Bytes as what a machine needs of the host that it migrates to.
pub fn needs(bytes: &[u8]) {
    if let Ok(needs) = Needs::decode(bytes) {
        again(&needs, Needs::encode, Needs::decode);
    }
}

/// Bytes as the working set of a machine.
pub fn working_set(bytes: &[u8]) {
    let Some(real) = REAL.first() else { return };
    let slots = real.image.layout().slots();
    if let Ok(pages) = working_set::decode(bytes, slots) {
        assert!(pages.len() <= slots.total_pages());
        assert_eq!(working_set::decode(&working_set::encode(&pages), slots).ok(), Some(pages));
    }
}

/// Bytes laid over the numbers in the state of a machine on the engine, of which everything else is right. A machine is made
/// of it, with the memory of the real one, and let run. Returns whether there was one.
pub fn machine(bytes: &[u8]) -> bool {
    let Some((choice, noise)) = bytes.split_first() else { return false };
    let engines: Vec<&Real> = REAL.iter().filter(|r| r.hypervisor == HypervisorWish::Engine).collect();
    let Some(real) = engines.get(usize::from(*choice) % engines.len().max(1)) else { return false };
    let Ok(state) = real.image.state(saved::PART) else { return false };
    let Some(saved) = noise::lay(noise, &state).and_then(|state| MachineSaved::decode(&state).ok()) else {
        return false;
    };
    let Ok(machine) =
        Machine::restore_as(saved, &real.store, &real.image, real.options(), Box::new(io::sink()))
    else {
        return false;
    };
    // Whatever its vCPUs are at, they can be stopped.
    machine.resume().is_ok() && machine.pause().is_ok()
}

/// What is understood is understood again.
fn again<T>(
    value: &T,
    encode: impl Fn(&T) -> Result<Vec<u8>, String>,
    decode: impl Fn(&[u8]) -> Result<T, String>,
) {
    let Ok(first) = encode(value) else { return };
    let second = decode(&first).and_then(|value| encode(&value));
    assert_eq!(second, Ok(first));
}

/// Bytes of real machines to begin with: their state, what they need, their working sets.
#[must_use]
pub fn seeds() -> [Vec<Vec<u8>>; 3] {
    let part = |name: &str| REAL.iter().filter_map(|real| real.image.state(name).ok()).collect();
    [part(saved::PART), REAL.iter().map(|real| real.needs.clone()).collect(), part(working_set::PART)]
}

/// An image of a machine, and the machine's needs.
struct Real {
    hypervisor: HypervisorWish,
    store: Store,
    image: Image,
    needs: Vec<u8>,
}

/// Of machines of several shapes on the engine, and of one on `/dev/kvm` where there is one.
static REAL: LazyLock<Vec<Real>> = LazyLock::new(|| {
    let shapes = [
        (HypervisorWish::Engine, 1, 0),
        (HypervisorWish::Engine, 2, 1),
        (HypervisorWish::Engine, 3, 2),
        (HypervisorWish::Kvm, 2, 1),
    ];
    shapes.into_iter().filter_map(|(hypervisor, vcpus, its)| real(hypervisor, vcpus, its).ok()).collect()
});

fn real(hypervisor: HypervisorWish, vcpus: u32, its: u32) -> Result<Real, Box<dyn Error>> {
    let config = MachineConfig {
        name: "vm".into(),
        memory: 4 << 20,
        vcpus,
        its,
        hypervisor,
        tracking: Wish::Auto,
        boot: Boot::Guest(GuestSpec { pattern: Pattern::Uniform, hot: 256 << 10, pace: 0, seed: 5 }),
        audit: None,
    };
    let machine = Machine::create(config, Box::new(io::sink()))?;
    let needs = machine.identity(None)?.needs;
    let store = Store::with_backend(Arc::new(Memory::default()), true)?;
    machine.resume()?;
    let written = machine.pages_written().ok_or("a built-in guest")?;
    while machine.pages_written().is_some_and(|now| now < written + 200) && machine.outcome().is_none() {
        std::thread::yield_now();
    }
    let taken = machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {})?;
    let image = store.image(taken.image)?;
    Ok(Real { hypervisor, store, image, needs })
}

impl Real {
    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            name: None,
            hypervisor: self.hypervisor,
            tracking: Wish::Auto,
            audit: None,
            loading: Loading::Eager,
        }
    }
}
