//! The devices of the reference machine.

mod outlet;
mod ports;
mod serial;

pub(crate) use outlet::attended;
pub(crate) use ports::NOBODY;
pub use ports::{PortEffect, Ports};
pub use serial::{Console, SerialPort, SerialSaved};
