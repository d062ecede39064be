//! LPIs: message-signalled interrupts, whose state is the VM's and not any one ITS's.

use std::collections::BTreeMap;

use ringmark_abi::Errno;

use super::{
    bits::{field, mask},
    distributor::Distributor,
    host::{Host, read_byte},
};

/// The first LPI; smaller interrupt numbers are of other kinds (`GIC_LPI_OFFSET`).
pub(super) const FIRST: u32 = 8192;

/// One past the largest LPI: interrupt numbers have 16 bits (`INTERRUPT_ID_BITS_ITS`).
pub(super) const END: u32 = 1 << 16;

/// One LPI while some event of some ITS translates to it.
#[derive(Debug)]
pub(super) struct Lpi {
    /// How many events translate to it.
    references: u32,
    /// It was raised and not yet taken.
    pub(super) pending: bool,
    /// Bit 0 of its configuration byte, as last read.
    pub(super) enabled: bool,
    /// Priority of its configuration byte, as last read; the smaller goes first.
    pub(super) priority: u8,
    /// The vCPU it goes to; none while its collection is not mapped.
    pub(super) target: Option<u32>,
}

/// All LPIs by interrupt number; at most [`END`]` - `[`FIRST`].
pub(super) type Lpis = BTreeMap<u32, Lpi>;

impl Distributor {
    /// One past the largest LPI that `GICR_PROPBASER` has room for (`max_lpis_propbaser`).
    pub(super) fn lpi_end(&self) -> u32 {
        (2u32 << field(self.propbaser, 4, 0)).min(END)
    }

    /// One more event translates to `intid`. A new LPI is configured from its byte in the configuration table and takes
    /// its pending bit out of the pending table (`vgic_add_lpi`).
    ///
    /// # Errors
    /// `EFAULT` when either table is outside memory; the LPI then does not exist.
    pub(super) fn add_lpi(&mut self, host: &dyn Host, intid: u32, target: Option<u32>) -> Result<(), Errno> {
        if let Some(lpi) = self.lpis.get_mut(&intid) {
            lpi.references += 1;
            return Ok(());
        }
        let fresh = Lpi { references: 1, pending: false, enabled: false, priority: 0, target };
        self.lpis.insert(intid, fresh);
        let loaded = self.load_config(host, intid).and_then(|()| self.consume_pending_bit(host, intid));
        if loaded.is_err() {
            self.lpis.remove(&intid);
        }
        loaded
    }

    /// One event less translates to `intid`; the last one takes the LPI and its pending state with it.
    pub(super) fn put_lpi(&mut self, intid: u32) {
        if let Some(lpi) = self.lpis.get_mut(&intid) {
            lpi.references -= 1;
            if lpi.references == 0 {
                self.lpis.remove(&intid);
            }
        }
    }

    /// Reads the configuration of `intid` anew (`update_lpi_config`).
    ///
    /// # Errors
    /// `EFAULT` when the configuration table is outside memory.
    pub(super) fn load_config(&mut self, host: &dyn Host, intid: u32) -> Result<(), Errno> {
        let table = self.propbaser & mask(51, 12);
        let byte = read_byte(host, table + u64::from(intid.saturating_sub(FIRST)))?;
        if let Some(lpi) = self.lpis.get_mut(&intid) {
            lpi.enabled = byte & 1 != 0;
            lpi.priority = byte & 0xfc;
        }
        Ok(())
    }

    /// Reads the configuration of every LPI of `vcpu` anew (`vgic_its_invall`).
    pub(super) fn load_configs_of(&mut self, host: &dyn Host, vcpu: u32) {
        let of_vcpu: Vec<u32> =
            self.lpis.iter().filter(|(_, lpi)| lpi.target == Some(vcpu)).map(|(&intid, _)| intid).collect();
        for intid in of_vcpu {
            // The kernel leaves an LPI alone whose byte cannot be read.
            let _ = self.load_config(host, intid);
        }
    }

    /// `intid` goes to `vcpu` from now on.
    pub(super) fn route_lpi(&mut self, intid: u32, vcpu: u32) {
        if let Some(lpi) = self.lpis.get_mut(&intid) {
            lpi.target = Some(vcpu);
        }
    }

    /// All LPIs of `from` go to `to` from now on.
    pub(super) fn route_all_lpis(&mut self, from: u32, to: u32) {
        for lpi in self.lpis.values_mut().filter(|lpi| lpi.target == Some(from)) {
            lpi.target = Some(to);
        }
    }

    /// Raises or withdraws `intid`.
    pub(super) fn set_pending(&mut self, intid: u32, pending: bool) {
        if let Some(lpi) = self.lpis.get_mut(&intid) {
            lpi.pending = pending;
        }
    }

    /// Pending LPIs of `vcpu`, ascending, whether or not it would take them now.
    pub(super) fn pending_lpis(&self, vcpu: u32) -> impl Iterator<Item = u32> {
        self.lpis
            .iter()
            .filter(move |(_, lpi)| lpi.pending && lpi.target == Some(vcpu))
            .map(|(&intid, _)| intid)
    }

    /// Takes the most urgent LPI that `vcpu` has pending and enabled, as its read of `ICC_IAR1_EL1` would.
    pub(super) fn acknowledge_lpi(&mut self, vcpu: u32) -> Option<u32> {
        if !self.lpis_enabled(vcpu) {
            return None;
        }
        let (_, intid) = self
            .lpis
            .iter()
            .filter(|(_, lpi)| lpi.pending && lpi.enabled && lpi.target == Some(vcpu))
            .map(|(&intid, lpi)| (lpi.priority, intid))
            .min()?;
        self.set_pending(intid, false);
        Some(intid)
    }
}
