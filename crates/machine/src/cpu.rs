//! One vCPU as the thread that runs it sees it.

use ringmark_guest::{Config, Interrupts};
use serde::{Deserialize, Serialize};

use crate::platform::PlatformError;

/// Why a vCPU came back from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    /// It was kicked, or a signal came: look at the gate and go on.
    Kicked,
    /// Its dirty ring reached the soft limit: have it drained, then go on.
    RingFull,
    /// The machine ends.
    End(End),
}

/// How a machine came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest reset or switched off the machine.
    Shutdown,
    /// The guest fell into a triple fault.
    TripleFault,
    /// The guest ended with a code.
    Exit(u8),
    /// The monitor was told to end it.
    Stopped,
    /// The guest runs on another host.
    Left,
}

/// A vCPU cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("vCPU {vcpu} cannot go on: {what}; the guest is stopped")]
pub struct CpuError {
    /// Which vCPU.
    pub vcpu: u32,
    /// What happened.
    pub what: String,
}

/// A vCPU on either hypervisor.
pub(crate) trait Cpu: Send {
    /// Runs the guest until something needs its thread; port I/O is answered inside.
    ///
    /// When it returns for a kick or a full ring nothing is left half done: KVM completes the operation of the last exit
    /// (a port read stores its data in guest memory) before it looks at `immediate_exit`, at signals or at the ring.
    ///
    /// # Errors
    /// If the hypervisor or the guest program cannot go on.
    fn run(&mut self) -> Result<Return, CpuError>;

    /// The state to go on from.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn save(&mut self) -> Result<Opaque, String>;

    /// Puts back what [`save`](Self::save) gave, with memory in place; this vCPU has not run.
    ///
    /// # Errors
    /// If it is damaged, or not what this host can run.
    fn load(&mut self, saved: &Opaque, wiring: Wiring) -> Result<(), PlatformError>;
}

/// What software vCPUs are told of the machine's interrupt controller, as guest memory has it.
pub(crate) type Wiring = Option<(Config, Interrupts)>;

/// State that only the hypervisor which saved it can read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opaque(#[serde(with = "serde_bytes_vec")] pub Vec<u8>);

/// CBOR byte strings instead of arrays of numbers.
mod serde_bytes_vec {
    use serde::{Deserializer, Serializer, de};
    use std::fmt;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
