//! Where everything lies in the memory for the tables.

use super::Interrupts;
use crate::config::Config;

/// The INTID of the first LPI.
pub const FIRST_LPI: u64 = 8192;
/// Bytes of a device's translation table: [`Interrupts::MAX_EVENTS`] entries of eight bytes, as KVM has them.
const TRANSLATION_BYTES: u64 = Interrupts::MAX_EVENTS * 8;

impl Interrupts {
    /// The unit of every table's size and place.
    pub(super) const UNIT: u64 = 64 << 10;
    /// First address that nothing reaches.
    pub(super) const END: u64 = 1 << 48;

    /// Bytes of the memory for the tables.
    #[must_use]
    pub const fn bytes(&self, config: &Config) -> u64 {
        let counts = self.counts(config) - self.area;
        (counts + self.routes_bytes(config) + config.writers * self.cells_bytes(config))
            .next_multiple_of(Self::UNIT)
    }

    /// Events in all.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.count * self.devices * self.events
    }

    /// LPIs in all: two an event.
    #[must_use]
    pub const fn lpis(&self) -> u64 {
        2 * self.lines()
    }

    /// The frame of ITS `its`.
    #[must_use]
    pub const fn translator(&self, its: u64) -> u64 {
        self.translators + its * 2 * Self::UNIT
    }

    /// The frame of vCPU `vcpu`'s redistributor.
    #[must_use]
    pub const fn redistributor(&self, vcpu: u64) -> u64 {
        self.redistributors + vcpu * 2 * Self::UNIT
    }

    /// Address of the configuration table of the LPIs.
    #[must_use]
    pub const fn configuration(&self) -> u64 {
        self.area
    }

    /// Address of the command queue of ITS `its`.
    #[must_use]
    pub const fn queue(&self, its: u64) -> u64 {
        self.area + Self::UNIT + its * (3 * Self::UNIT + self.translations_bytes())
    }

    /// Address of the device table of ITS `its`.
    #[must_use]
    pub const fn device_table(&self, its: u64) -> u64 {
        self.queue(its) + Self::UNIT
    }

    /// Address of the collection table of ITS `its`.
    #[must_use]
    pub const fn collection_table(&self, its: u64) -> u64 {
        self.queue(its) + 2 * Self::UNIT
    }

    /// The translation table of the device with index `device` of ITS `its`.
    #[must_use]
    pub const fn translation_table(&self, its: u64, device: u64) -> u64 {
        self.queue(its) + 3 * Self::UNIT + device * TRANSLATION_BYTES
    }

    const fn translations_bytes(&self) -> u64 {
        (self.devices * TRANSLATION_BYTES).next_multiple_of(Self::UNIT)
    }

    /// Address of the pending table of `vcpu`.
    #[must_use]
    pub const fn pending_table(&self, vcpu: u64) -> u64 {
        self.queue(self.count) + vcpu * Self::UNIT
    }

    const fn counts(&self, config: &Config) -> u64 {
        self.pending_table(config.writers).next_multiple_of(config.page_size)
    }

    const fn routes_bytes(&self, config: &Config) -> u64 {
        (self.lines() * 8).next_multiple_of(config.page_size)
    }

    /// Bytes of what is counted for one vCPU.
    const fn cells_bytes(&self, config: &Config) -> u64 {
        self.raised_bytes(config) + ((1 + self.lpis()) * 8).next_multiple_of(config.page_size)
    }

    const fn raised_bytes(&self, config: &Config) -> u64 {
        (self.lpis() * 8).next_multiple_of(config.page_size)
    }

    /// Address of the word that says where event `line` goes.
    #[must_use]
    pub const fn route_gpa(&self, config: &Config, line: u64) -> u64 {
        self.counts(config) + line * 8
    }

    /// Address of the word that counts how often LPI `FIRST_LPI + lpi` was raised for `vcpu`.
    #[must_use]
    pub const fn raised_gpa(&self, config: &Config, vcpu: u64, lpi: u64) -> u64 {
        self.counts(config) + self.routes_bytes(config) + vcpu * self.cells_bytes(config) + lpi * 8
    }

    /// Address of the word that counts how often `vcpu` took an interrupt that is no LPI of the program's. The words
    /// that count how often it took each LPI follow.
    pub(crate) const fn strays_gpa(&self, config: &Config, vcpu: u64) -> u64 {
        self.raised_gpa(config, vcpu, 0) + self.raised_bytes(config)
    }

    /// Address of the word that counts how often `vcpu` took LPI `FIRST_LPI + lpi`.
    #[must_use]
    pub const fn taken_gpa(&self, config: &Config, vcpu: u64, lpi: u64) -> u64 {
        self.strays_gpa(config, vcpu) + (1 + lpi) * 8
    }
}

impl Interrupts {
    /// The `DeviceID` of the device with index `device` of ITS `its`.
    #[must_use]
    pub const fn device_id(&self, its: u64, device: u64) -> u64 {
        let room = Self::UNIT / 8;
        device * (room / self.devices) + its
    }
}
