//! Commands of a translation service (Arm IHI 0069, 5.3).

use ringmark_guest::Interrupts;

/// A command: four words of its queue.
pub(super) type Command = [u64; 4];

const VALID: u64 = 1 << 63;
/// Bits of an `EventID`.
const EVENT_BITS: u64 = Interrupts::MAX_EVENTS.ilog2() as u64;

/// A device and one of its events, as a translation service names them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) device: u64,
    pub(super) event: u64,
}

/// Gives a collection its vCPU, of the same number.
pub(super) const fn mapc(vcpu: u64) -> Command {
    [0x09, 0, VALID | vcpu << 16 | vcpu, 0]
}

/// Gives a device its translation table.
pub(super) const fn mapd(device: u64, table: u64) -> Command {
    [0x08 | device << 32, EVENT_BITS - 1, VALID | table, 0]
}

/// Maps an event to an LPI and a collection.
pub(super) const fn mapti(source: Source, intid: u64, collection: u64) -> Command {
    [0x0a | source.device << 32, source.event | intid << 32, collection, 0]
}

/// Moves an event to another collection.
pub(super) const fn movi(source: Source, collection: u64) -> Command {
    [0x01 | source.device << 32, source.event, collection, 0]
}

/// Unmaps an event.
pub(super) const fn discard(source: Source) -> Command {
    [0x0f | source.device << 32, source.event, 0, 0]
}

/// Raises an event as its device would.
pub(super) const fn int(source: Source) -> Command {
    [0x03 | source.device << 32, source.event, 0, 0]
}
