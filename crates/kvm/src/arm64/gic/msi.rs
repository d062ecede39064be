//! Message-signalled interrupts (`KVM_SIGNAL_MSI`).

use kvm_bindings::{KVM_MSI_VALID_DEVID, kvm_msi};
use ringmark_abi::Errno;

use crate::{Vm, errno};

/// A device's write to a doorbell (`struct kvm_msi`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where it writes: `GITS_TRANSLATER` of an ITS, its address plus [`TRANSLATER`](super::gits::TRANSLATER).
    pub address: u64,
    /// What it writes: the EventID.
    pub data: u32,
    /// The DeviceID, without which an ITS translates nothing (`KVM_MSI_VALID_DEVID`).
    pub devid: Option<u32>,
}

impl Vm {
    /// `KVM_SIGNAL_MSI`: 1 if the LPI is now pending, 0 if the guest has not mapped the event.
    ///
    /// # Errors
    /// `EINVAL` without a VGIC, without a DeviceID, or for an address that is no ITS's; `ENODEV` without an ITS; `EBUSY`
    /// while the ITS, or LPIs at the target, are disabled.
    pub fn signal_msi(&self, msi: &Msi) -> Result<u32, Errno> {
        let (address_lo, address_hi) = halves(msi.address);
        let raw = kvm_msi {
            address_lo,
            address_hi,
            data: msi.data,
            flags: if msi.devid.is_some() { KVM_MSI_VALID_DEVID } else { 0 },
            devid: msi.devid.unwrap_or(0),
            ..Default::default()
        };
        let delivered = self.fd().signal_msi(raw).map_err(errno::of)?;
        u32::try_from(delivered).map_err(|_| Errno::EIO)
    }
}

/// The low and the high half.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_address_is_taken_apart() {
        assert_eq!(super::halves(0x0123_4567_89ab_cdef), (0x89ab_cdef, 0x0123_4567));
    }
}
