//! Copies between guest memory and the host's own buffers.
//!
//! Guest memory is shared with running vCPUs, devices and the monitor, so nothing here ever makes a reference or a slice to
//! it: every access is a volatile one of an aligned word or a byte. An aligned word of 2, 4 or 8 bytes is copied whole, as
//! a guest's own store is, so no reader sees half of one.
#![expect(unsafe_code, reason = "guest memory is reached through the address its memslot names")]

use std::ptr;

/// The host address of some bytes of guest memory.
///
/// It may be used only while the memslot it came from is pinned: inside a vCPU's section
/// ([`Section`](crate::vcpu::Section)) or under the VM's reader lock of devices, both of which a deletion waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress(usize);

impl HostAddress {
    pub(crate) const fn new(address: usize) -> Self {
        Self(address)
    }

    pub(crate) const fn add(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Writes `data`.
    ///
    /// # Safety
    /// `self .. self + data.len()` lies in a memslot that stays in place for the whole call.
    #[inline]
    pub(crate) unsafe fn write(self, data: &[u8]) {
        let to = ptr::with_exposed_provenance_mut::<u8>(self.0);
        if let Ok(word) = <[u8; 8]>::try_from(data)
            && self.0.is_multiple_of(8)
        {
            // SAFETY: the caller promises 8 mapped bytes at `to`, which is aligned to 8.
            unsafe { to.cast::<u64>().write_volatile(u64::from_ne_bytes(word)) };
            return;
        }
        let mut at = 0;
        while at < data.len() {
            let (address, rest) = (self.0.wrapping_add(at), &data[at..]);
            // SAFETY: `at` is below `data.len()`, all of which the caller promises to be mapped.
            let to = unsafe { to.add(at) };
            // SAFETY: each arm has checked its alignment, and that as many bytes are left, which the caller promises to
            // be mapped and writable.
            at += unsafe {
                match *rest {
                    [a, b, c, d, e, f, g, h, ..] if address.is_multiple_of(8) => {
                        to.cast::<u64>().write_volatile(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
                        8
                    }
                    [a, b, c, d, ..] if address.is_multiple_of(4) => {
                        to.cast::<u32>().write_volatile(u32::from_ne_bytes([a, b, c, d]));
                        4
                    }
                    [a, b, ..] if address.is_multiple_of(2) => {
                        to.cast::<u16>().write_volatile(u16::from_ne_bytes([a, b]));
                        2
                    }
                    [a, ..] => {
                        to.write_volatile(a);
                        1
                    }
                    [] => break,
                }
            };
        }
    }

    /// Reads into `data`.
    ///
    /// # Safety
    /// `self .. self + data.len()` lies in a memslot that stays in place for the whole call.
    #[inline]
    pub(crate) unsafe fn read(self, data: &mut [u8]) {
        let from = ptr::with_exposed_provenance::<u8>(self.0);
        let mut at = 0;
        while at < data.len() {
            let (address, rest) = (self.0.wrapping_add(at), &mut data[at..]);
            // SAFETY: `at` is below `data.len()`, all of which the caller promises to be mapped.
            let from = unsafe { from.add(at) };
            let step = match rest.len() {
                8.. if address.is_multiple_of(8) => 8,
                4.. if address.is_multiple_of(4) => 4,
                2.. if address.is_multiple_of(2) => 2,
                _ => 1,
            };
            // SAFETY: each arm has checked its alignment, and that as many bytes are left, which the caller promises to
            // be mapped.
            unsafe {
                match step {
                    8 => rest[..8].copy_from_slice(&from.cast::<u64>().read_volatile().to_ne_bytes()),
                    4 => rest[..4].copy_from_slice(&from.cast::<u32>().read_volatile().to_ne_bytes()),
                    2 => rest[..2].copy_from_slice(&from.cast::<u16>().read_volatile().to_ne_bytes()),
                    _ => rest[0] = from.read_volatile(),
                }
            }
            at += step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alignment_and_length_round_trips() {
        let mut backing = vec![0u64; 8];
        let base = backing.as_mut_ptr().expose_provenance();
        for start in 0..16 {
            for len in 0..24 {
                let data: Vec<u8> = (0..len).map(|i| u8::try_from(start * 7 + i * 3 + 1).unwrap()).collect();
                let mut back = vec![0; len];
                // SAFETY: at most 40 of the 64 bytes of `backing` are touched, and nothing else uses them.
                unsafe {
                    HostAddress::new(base).write(&[0xEE; 64]);
                    HostAddress::new(base).add(start).write(&data);
                    HostAddress::new(base).add(start).read(&mut back);
                    let mut edge = [0; 1];
                    HostAddress::new(base).add(start + len).read(&mut edge);
                    assert_eq!(edge, [0xEE], "nothing past the end is written");
                }
                assert_eq!(back, data);
            }
        }
    }
}
