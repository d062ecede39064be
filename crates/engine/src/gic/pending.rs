//! The LPI pending tables: one bit an interrupt number in guest memory, for each redistributor its own.

use ringmark_abi::Errno;

use super::{
    distributor::Distributor,
    host::{Host, read_byte},
};

/// Where the bit of `intid` is in the pending table at `base`: its byte's address, and the mask in that byte.
fn locate(base: u64, intid: u32) -> (u64, u8) {
    (base + u64::from(intid / 8), 1 << (intid % 8))
}

impl Distributor {
    /// Moves a pending bit from the table into the LPI: the bit is cleared in guest memory, which dirties its page
    /// (`vgic_v3_lpi_sync_pending_status`). An LPI without a target has no table.
    ///
    /// # Errors
    /// `EFAULT` when the table is outside memory.
    pub(super) fn consume_pending_bit(&mut self, host: &dyn Host, intid: u32) -> Result<(), Errno> {
        let Some(target) = self.lpis.get(&intid).and_then(|lpi| lpi.target) else { return Ok(()) };
        let (byte_at, bit) = locate(self.pending_table(target), intid);
        let byte = read_byte(host, byte_at)?;
        self.set_pending(intid, byte & bit != 0);
        if byte & bit != 0 {
            host.write(byte_at, &[byte & !bit])?;
        }
        Ok(())
    }

    /// What enabling LPIs at a redistributor does unless its table is declared to be zero: the LPIs of `vcpu` become
    /// what the table says, which is only read (`its_sync_lpi_pending_table`).
    pub(super) fn read_pending_table(&mut self, host: &dyn Host, vcpu: u32) {
        let table = self.pending_table(vcpu);
        for (&intid, lpi) in self.lpis.iter_mut().filter(|(_, lpi)| lpi.target == Some(vcpu)) {
            let (byte_at, bit) = locate(table, intid);
            // A table outside memory leaves the remaining LPIs as they are.
            let Ok(byte) = read_byte(host, byte_at) else { return };
            lpi.pending = byte & bit != 0;
        }
    }

    /// `KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES`: pending state into the tables of the LPIs' targets
    /// (`vgic_v3_save_pending_tables`). Only bytes that change are written, so a second save dirties nothing.
    ///
    /// # Errors
    /// `ENXIO` before the VGIC was initialised; `EFAULT` for a table outside memory, with what came before it written.
    pub(super) fn save_pending_tables(&self, host: &dyn Host) -> Result<(), Errno> {
        if !self.initialized {
            return Err(Errno::ENXIO);
        }
        for (&intid, lpi) in &self.lpis {
            let Some(target) = lpi.target else { continue };
            let (byte_at, bit) = locate(self.pending_table(target), intid);
            let byte = read_byte(host, byte_at)?;
            let wanted = if lpi.pending { byte | bit } else { byte & !bit };
            if wanted != byte {
                host.write(byte_at, &[wanted])?;
            }
        }
        Ok(())
    }
}
