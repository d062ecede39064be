//! The state of a vCPU.

use kvm_bindings::kvm_vcpu_events;
use ringmark_abi::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Part;
use crate::state::{optional, read_bytes};
use crate::{Absent, Raw, StateError, Vcpu, errno};

/// A register and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Its name to `KVM_GET_ONE_REG`.
    pub id: u64,
    /// Its value, as many bytes as the name says.
    #[serde(serialize_with = "to_bytes", deserialize_with = "from_bytes")]
    pub value: Vec<u8>,
}

/// More bytes than any register has (a scalable vector takes 256).
const MOST_BYTES: usize = 1 << 12;

fn to_bytes<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(value)
}

fn from_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    read_bytes(deserializer, MOST_BYTES)
}

/// All that KVM knows of a vCPU, but for its part of the interrupt controller, which is in [`VmState`](super::VmState).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// The registers, in the kernel's order.
    pub registers: Vec<Register>,
    /// Running or switched off.
    pub mp_state: u32,
    /// Exceptions on their way.
    pub events: Option<Raw<kvm_vcpu_events>>,
    /// What the host could not give.
    pub absent: Vec<Absent>,
}

impl Vcpu {
    /// Saves the vCPU's state. What its last exit left pending must be finished first, by
    /// [`complete_pending`](Self::complete_pending).
    ///
    /// # Errors
    /// [`StateError::Save`]; `ENOEXEC` before [`init`](Self::init).
    pub fn state(&self) -> Result<VcpuState, StateError> {
        let mut absent = Vec::new();
        let required = |part| move |errno| StateError::Save { part, errno };
        let mp_state = self.mp_state().map_err(required(Part::MpState))?;
        let ids = self.register_ids().map_err(required(Part::RegisterList))?;
        let mut registers = Vec::with_capacity(ids.len());
        for id in ids {
            let value = optional(Part::Register(id), self.register_bytes(id), &mut absent)?;
            registers.extend(value.map(|value| Register { id, value }));
        }
        let events = self.fd().get_vcpu_events().map_err(errno::of);
        let events = optional(Part::VcpuEvents, events, &mut absent)?.map(Raw);
        Ok(VcpuState { registers, mp_state, events, absent })
    }

    /// Restores a saved state into a vCPU that was [initialised](Self::init) and has not run.
    ///
    /// A register that refuses its value and has it already counts as restored: many say what the host's processor is.
    ///
    /// # Errors
    /// [`StateError::Restore`] at the first part that was saved and cannot be set; the vCPU is then of no use.
    pub fn set_state(&mut self, state: &VcpuState) -> Result<(), StateError> {
        let part = |part| move |errno| StateError::Restore { part, errno };
        for Register { id, value } in &state.registers {
            self.restore_register(*id, value).map_err(part(Part::Register(*id)))?;
        }
        if let Some(events) = &state.events {
            self.fd().set_vcpu_events(events).map_err(errno::of).map_err(part(Part::VcpuEvents))?;
        }
        self.set_mp_state(state.mp_state).map_err(part(Part::MpState))
    }

    fn restore_register(&mut self, id: u64, value: &[u8]) -> Result<(), Errno> {
        match self.set_register_bytes(id, value) {
            Err(errno) if self.register_bytes(id).as_deref() != Ok(value) => Err(errno),
            _ => Ok(()),
        }
    }
}
