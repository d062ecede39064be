//! The devices of the reference machine.

mod ports;
mod serial;

pub use ports::{PortEffect, Ports};
pub use serial::{Console, SerialPort, SerialSaved};
