//! Commands of an ITS (Arm IHI 0069, 5.3).

/// A command: four words of its queue.
pub(super) type Command = [u64; 4];

const VALID: u64 = 1 << 63;

/// Bits of an EventID.
const EVENT_BITS: u64 = super::Interrupts::MAX_EVENTS.trailing_zeros() as u64;

/// A device and one of its events, as an ITS names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) device: u64,
    pub(super) event: u64,
}

/// Gives a collection its redistributor, by processor number. Nothing here takes it away again: kernels up to 6.12 at
/// least fault when they save the tables of an ITS that maps events to a collection which is gone
/// (`vgic_its_save_ite`).
pub(super) const fn mapc(collection: u64, processor: u64) -> Command {
    [0x09, 0, VALID | processor << 16 | collection, 0]
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

/// Has the configuration of an event's LPI read anew.
pub(super) const fn inv(source: Source) -> Command {
    [0x0c | source.device << 32, source.event, 0, 0]
}

/// Has the configuration of all LPIs of a collection read anew.
pub(super) const fn invall(collection: u64) -> Command {
    [0x0d, 0, collection, 0]
}

/// Waits until a redistributor has seen the commands before.
pub(super) const fn sync(processor: u64) -> Command {
    [0x05, 0, processor << 16, 0]
}
