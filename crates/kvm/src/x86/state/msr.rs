//! The MSRs of a vCPU, as many as the host lets us have.

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use ringmark_abi::Errno;
use serde::{Deserialize, Serialize};

use super::Part;
use crate::{Absent, StateError, Vcpu, errno};

/// `IA32_FEATURE_CONTROL`: must allow VMX before nested state is set.
const FEATURE_CONTROL: u32 = 0x3a;
/// `IA32_TSC_DEADLINE`: arms the local APIC's timer by the TSC, so it comes after both.
const TSC_DEADLINE: u32 = 0x6e0;

/// A model-specific register and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msr {
    /// Its index.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// Reads every MSR of `KVM_GET_MSR_INDEX_LIST` that can be read, and notes the others as absent.
pub(super) fn save(vcpu: &Vcpu, absent: &mut Vec<Absent>) -> Result<Vec<Msr>, StateError> {
    let failed = |errno| StateError::Save { part: Part::Msrs, errno };
    let list = vcpu.vm().kvm().get_msr_index_list().map_err(errno::of).map_err(failed)?;
    let mut saved = Vec::with_capacity(list.as_slice().len());
    let mut rest = list.as_slice();
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .take(KVM_MAX_MSR_ENTRIES)
            .map(|&index| kvm_msr_entry { index, ..Default::default() })
            .collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| failed(Errno::ENOMEM))?;
        // The kernel stops at the first MSR it cannot read and says how many came before.
        let read = vcpu.fd().get_msrs(&mut msrs).map_err(errno::of).map_err(failed)?.min(entries.len());
        saved.extend(msrs.as_slice().iter().take(read).map(|e| Msr { index: e.index, value: e.data }));
        match rest.get(read) {
            Some(&index) if read < entries.len() => {
                absent.push(Absent { what: Part::Msr(index), errno: Errno::EINVAL });
                rest = &rest[read + 1..];
            }
            _ => rest = &rest[read..],
        }
    }
    Ok(saved)
}

/// Sets the one MSR that nested state depends on.
pub(super) fn restore_feature_control(vcpu: &mut Vcpu, msrs: &[Msr]) -> Result<(), StateError> {
    let found: Vec<_> = msrs.iter().copied().filter(|msr| msr.index == FEATURE_CONTROL).collect();
    set(vcpu, &found)
}

/// Sets every MSR, the one that arms the timer last.
pub(super) fn restore(vcpu: &mut Vcpu, msrs: &[Msr]) -> Result<(), StateError> {
    let (last, first): (Vec<_>, Vec<_>) = msrs.iter().copied().partition(|msr| msr.index == TSC_DEADLINE);
    set(vcpu, &first)?;
    set(vcpu, &last)
}

fn set(vcpu: &mut Vcpu, msrs: &[Msr]) -> Result<(), StateError> {
    let failed = |errno| StateError::Restore { part: Part::Msrs, errno };
    let mut rest = msrs;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .take(KVM_MAX_MSR_ENTRIES)
            .map(|msr| kvm_msr_entry { index: msr.index, data: msr.value, ..Default::default() })
            .collect();
        let batch = Msrs::from_entries(&entries).map_err(|_| failed(Errno::ENOMEM))?;
        let set = vcpu.fd().set_msrs(&batch).map_err(errno::of).map_err(failed)?.min(entries.len());
        match rest.get(set) {
            Some(&Msr { index, value }) if set < entries.len() => {
                // Some MSRs can be read and not written; one that holds the value already needs no writing.
                if vcpu.msr(index) != Ok(value) {
                    return Err(StateError::Msr { index, value });
                }
                rest = &rest[set + 1..];
            }
            _ => rest = &rest[set..],
        }
    }
    Ok(())
}
