//! Structures of the kernel as bytes, for serde.

#![allow(unsafe_code, reason = "structures of the kernel's interface are read and written as bytes")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_pit_state2, kvm_regs, kvm_sregs, kvm_sregs2, kvm_vcpu_events, kvm_xcrs,
};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A structure that is its bytes.
///
/// # Safety
/// Every byte of the type is initialised in every value (padding is spelt out as fields), and every sequence of bytes
/// is a value.
pub unsafe trait Plain: Copy {}

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

/// A kernel structure that is written down as the bytes it consists of.
///
/// Reading it back refuses another length: a state is of one version of the kernel's interface.
#[derive(Clone, Copy)]
pub struct Raw<T>(pub T);

impl<T> fmt::Debug for Raw<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw<{}>", std::any::type_name::<T>())
    }
}

impl<T: Plain> PartialEq for Raw<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl<T: Plain> Eq for Raw<T> {}

impl<T> Deref for Raw<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Plain> Raw<T> {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `T` is Plain: `size_of::<T>()` initialised bytes, borrowed with `self`.
        unsafe { std::slice::from_raw_parts((&raw const self.0).cast::<u8>(), size_of::<T>()) }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        // SAFETY: the length is checked first, and every sequence of bytes is a `T` since `T` is Plain.
        (bytes.len() == size_of::<T>()).then(|| Self(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }))
    }
}

impl<T: Plain> Serialize for Raw<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.bytes())
    }
}

impl<'de, T: Plain> Deserialize<'de> for Raw<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes =
            deserializer.deserialize_byte_buf(Bytes::<T> { most: size_of::<T>(), kind: PhantomData })?;
        Self::from_bytes(&bytes).ok_or_else(|| {
            D::Error::custom(format_args!("{} bytes where {} were expected", bytes.len(), size_of::<T>()))
        })
    }
}

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
        deserializer.deserialize_byte_buf(Bytes::<Self> { most: Self::MAX_LEN, kind: PhantomData }).map(Self)
    }
}

/// Takes up to `most` bytes, however the format has them.
struct Bytes<T> {
    most: usize,
    kind: PhantomData<T>,
}

impl<'de, T> Visitor<'de> for Bytes<T> {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} bytes", self.most)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        if bytes.len() > self.most { Err(E::invalid_length(bytes.len(), &self)) } else { Ok(bytes.to_vec()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            if bytes.len() == self.most {
                return Err(A::Error::invalid_length(bytes.len() + 1, &self));
            }
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
