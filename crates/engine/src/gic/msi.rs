//! Message-signalled interrupts (`KVM_SIGNAL_MSI`).

use ringmark_abi::Errno;

use super::{Gic, host::Host, its::Blocked};

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

impl Gic {
    /// `vgic_its_inject_msi`.
    pub(super) fn signal_msi(&self, host: &dyn Host, msi: &Msi) -> Result<u32, Errno> {
        let state = &mut *self.state();
        if !state.distributor.created {
            return Err(Errno::EINVAL);
        }
        if state.its.is_empty() {
            return Err(Errno::ENODEV);
        }
        let device = msi.devid.ok_or(Errno::EINVAL)?;
        let index = state.its_at(msi.address).ok_or(Errno::EINVAL)?;
        match state.its[index].trigger(&mut state.distributor, host, device, msi.data) {
            Ok(()) => Ok(1),
            Err(Blocked::Unmapped) => Ok(0),
            Err(Blocked::Disabled) => Err(Errno::EBUSY),
        }
    }
}
