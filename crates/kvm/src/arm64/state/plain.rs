//! The structures of the kernel that make up a state.

#![allow(unsafe_code, reason = "says which structures are their bytes")]

use kvm_bindings::kvm_vcpu_events;

use crate::state::Plain;

// SAFETY: integers and arrays of them with the padding spelt out, always made by zeroing it as a whole or by filling all
// of its bytes.
unsafe impl Plain for kvm_vcpu_events {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_structures_have_no_hidden_padding() {
        assert_eq!(size_of::<kvm_vcpu_events>(), 8 + 8 + 12 * 4);
    }
}
