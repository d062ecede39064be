//! What a processor offers to the guest, as far as a machine depends on it.

use serde::{Deserialize, Serialize};

/// What vCPUs offer to the guest, in the order in which the kernel reports it; empty where hosts cannot differ, or where the
/// state of a vCPU says it and is refused by a host that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Processor {
    pub(crate) leaves: Vec<Leaf>,
}

/// What `CPUID` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) function: u32,
    pub(crate) index: u32,
    pub(crate) flags: u32,
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
}
