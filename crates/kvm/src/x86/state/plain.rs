//! The structures of the kernel that make up a state, as bytes for serde.

#![allow(unsafe_code, reason = "says which structures are their bytes")]

use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_pit_state2, kvm_regs, kvm_sregs, kvm_sregs2, kvm_vcpu_events, kvm_xcrs,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::state::{Plain, read_bytes};

macro_rules! plain {
    ($($name:ty),* $(,)?) => {$(
        // SAFETY: a structure of the kernel's user interface: integers, arrays of them and unions of those, with its
        // padding spelt out, and always made by zeroing it as a whole or by filling all of its bytes.
        unsafe impl Plain for $name {}
    )*};
}

plain!(
    KvmNestedStateBuffer,
    kvm_clock_data,
    kvm_cpuid_entry2,
    kvm_debugregs,
    kvm_irqchip,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_pit_state2,
    kvm_regs,
    kvm_sregs,
    kvm_sregs2,
    kvm_vcpu_events,
    kvm_xcrs,
);

/// The processor's extended registers as `XSAVE` lays them out; its length is the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XsaveArea(pub Vec<u8>);

impl XsaveArea {
    /// More than any processor has (a tile register file takes 8 KiB).
    const MAX_LEN: usize = 1 << 16;
}

impl Serialize for XsaveArea {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for XsaveArea {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_bytes(deserializer, Self::MAX_LEN).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Raw;

    #[test]
    fn a_structure_comes_back_from_its_bytes() {
        let regs = Raw(kvm_regs { rip: 0xfff0, rax: u64::MAX, ..Default::default() });
        let text = serde_json::to_string(&regs).unwrap();
        assert_eq!(serde_json::from_str::<Raw<kvm_regs>>(&text).unwrap(), regs);
    }

    #[test]
    fn structures_of_pages_come_back_from_a_binary_format() {
        let mut nested = KvmNestedStateBuffer::empty();
        nested.flags = 7;
        let parts = (Raw(nested), XsaveArea(vec![0xa5; 12_000]));
        let mut bytes = Vec::new();
        ciborium::into_writer(&parts, &mut bytes).unwrap();
        assert!(bytes.len() < size_of_val(&nested) + 12_000 + 16, "bytes, not lists of numbers");
        let back: (Raw<KvmNestedStateBuffer>, XsaveArea) = ciborium::from_reader(&bytes[..]).unwrap();
        assert_eq!(back, parts);
    }

    #[test]
    fn another_length_is_refused() {
        let short = serde_json::to_string(&vec![0u8; size_of::<kvm_regs>() - 1]).unwrap();
        assert!(serde_json::from_str::<Raw<kvm_regs>>(&short).is_err());
        let long = serde_json::to_string(&vec![0u8; size_of::<kvm_regs>() + 1]).unwrap();
        assert!(serde_json::from_str::<Raw<kvm_regs>>(&long).is_err());
    }

    #[test]
    fn an_endless_area_is_refused() {
        let long = serde_json::to_string(&vec![0u8; XsaveArea::MAX_LEN + 1]).unwrap();
        assert!(serde_json::from_str::<XsaveArea>(&long).is_err());
    }

    #[test]
    fn plain_structures_have_no_hidden_padding() {
        // The sizes of the kernel's structures, each the sum of its fields.
        assert_eq!(size_of::<kvm_sregs2>(), 8 * 24 + 2 * 16 + 8 * 8 + 4 * 8);
        assert_eq!(size_of::<kvm_sregs>(), 8 * 24 + 2 * 16 + 7 * 8 + 4 * 8);
        assert_eq!(size_of::<kvm_regs>(), 18 * 8);
        assert_eq!(size_of::<kvm_cpuid_entry2>(), 10 * 4);
        assert_eq!(size_of::<kvm_debugregs>(), 16 * 8);
        assert_eq!(size_of::<kvm_irqchip>(), 2 * 4 + 512);
        assert_eq!(size_of::<kvm_lapic_state>(), 1024);
        assert_eq!(size_of::<kvm_mp_state>(), 4);
        assert_eq!(size_of::<kvm_pit_state2>(), 3 * 24 + 10 * 4);
        assert_eq!(size_of::<kvm_vcpu_events>(), 64);
        assert_eq!(size_of::<kvm_xcrs>(), 2 * 4 + 16 * 16 + 16 * 8);
        assert_eq!(size_of::<kvm_clock_data>(), 8 + 4 + 4 + 8 + 8 + 4 * 4);
        assert_eq!(size_of::<KvmNestedStateBuffer>(), 8 + 120 + 8192);
    }
}
