//! Interrupt lines of the interrupt controller in the kernel.

use ringmark_abi::Errno;
use vmm_sys_util::eventfd::EventFd;

use super::Vm;
use crate::errno;

impl Vm {
    /// `KVM_IRQ_LINE`: raises or lowers an interrupt line.
    ///
    /// On arm64 `gsi` is the packed number of `KVM_IRQ_LINE`, not the one of `KVM_IRQFD`: the kind of interrupt in bits
    /// 27 to 24 (1 is an SPI), the vCPU in 23 to 16 and the INTID in the low half.
    ///
    /// # Errors
    /// `ENXIO` without an interrupt controller in the kernel, `EINVAL` for a line it lacks.
    pub fn set_irq_line(&self, gsi: u32, active: bool) -> Result<(), Errno> {
        self.fd().set_irq_line(gsi, active).map_err(errno::of)
    }

    /// `KVM_IRQFD`: makes every write to `event` an edge on interrupt line `gsi`; on arm64 that is the SPI, counted from
    /// INTID 32.
    ///
    /// # Errors
    /// `EINVAL` without an interrupt controller in the kernel, `EBUSY` if `event` is bound already.
    pub fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), Errno> {
        self.fd().register_irqfd(event, gsi).map_err(errno::of)
    }
}
