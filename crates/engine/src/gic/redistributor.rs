//! Redistributors: what each vCPU has of the interrupt controller, as far as LPIs need it.

use super::{
    bits::{MemoryAttributes, Part, field, low32, mask},
    distributor::Distributor,
    gicr,
    host::Host,
    lpi::Lpis,
};

/// One vCPU's redistributor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Redistributor {
    /// `GICR_CTLR.EnableLPIs`.
    lpis_enabled: bool,
    /// `GICR_PENDBASER`.
    pendbaser: u64,
}

/// `GICR_CTLR.EnableLPIs`.
const ENABLE_LPIS: u64 = 1;
/// `GICR_CTLR.CES` and `GICR_CTLR.IR`: LPIs can be disabled again, invalidation registers exist.
const CTLR_FEATURES: u64 = 0b110;
/// `GICR_PENDBASER.PTZ`: the table is zero, do not read it.
const PENDING_TABLE_ZERO: u64 = 1 << 62;

const PROPBASER_ATTRIBUTES: MemoryAttributes = MemoryAttributes { shareability: 10, inner: 7, outer: 56 };
const PROPBASER_RES0: u64 = mask(63, 59) | mask(55, 52) | mask(6, 5);
const PENDBASER_ATTRIBUTES: MemoryAttributes = MemoryAttributes { shareability: 10, inner: 7, outer: 56 };
const PENDBASER_RES0: u64 = mask(63, 63) | mask(61, 59) | mask(55, 52) | mask(15, 12) | mask(6, 0);

/// A register of the redistributor's frame that KVM knows and this model has something to say about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Ctlr,
    Iidr,
    Typer,
    Propbaser,
    Pendbaser,
    Invlpir,
    Invallr,
    /// Reads as zero, ignores writes.
    Zero,
    /// An identification register, by its offset.
    Id(u64),
}

/// The register that `offset` lies in, and whether it has 64 bits.
pub(super) fn find(offset: u64) -> Option<(Register, bool)> {
    Some(match offset & !3 {
        gicr::CTLR => (Register::Ctlr, false),
        gicr::IIDR => (Register::Iidr, false),
        gicr::STATUSR | gicr::WAKER | gicr::SYNCR => (Register::Zero, false),
        id if (gicr::IDREGS..gicr::IDREGS + 0x30).contains(&id) => (Register::Id(id), false),
        _ => match offset & !7 {
            gicr::TYPER => (Register::Typer, true),
            gicr::PROPBASER => (Register::Propbaser, true),
            gicr::PENDBASER => (Register::Pendbaser, true),
            gicr::INVLPIR => (Register::Invlpir, true),
            gicr::INVALLR => (Register::Invallr, true),
            _ => return None,
        },
    })
}

/// The affinity of vCPU `id` as `MPIDR_EL1` holds it (`kvm_reset_vcpu`'s numbering), levels 2 to 0.
const fn affinity(id: u32) -> u64 {
    let id = id as u64;
    (id & 0xf) | (id >> 4 & 0xff) << 8 | (id >> 12 & 0xff) << 16
}

/// The vCPU id that has the affinity `mpidr` (levels 3 to 0 a byte each), if the numbering has one.
pub(super) fn vcpu_of_affinity(mpidr: u32) -> Option<u32> {
    let [aff0, aff1, aff2, aff3] = mpidr.to_le_bytes().map(u32::from);
    if aff0 > 0xf || aff3 != 0 {
        return None;
    }
    Some(aff2 << 12 | aff1 << 4 | aff0)
}

impl Distributor {
    /// Whether `vcpu` takes LPIs (`vgic_lpis_enabled`).
    pub(super) fn lpis_enabled(&self, vcpu: u32) -> bool {
        self.redistributors.get(&vcpu).is_some_and(|r| r.lpis_enabled)
    }

    /// The address of the pending table of `vcpu`.
    pub(super) fn pending_table(&self, vcpu: u32) -> u64 {
        self.redistributors.get(&vcpu).map_or(0, |r| r.pendbaser & mask(51, 16))
    }

    /// Reads a redistributor register.
    pub(super) fn read_redistributor(&self, vcpu: u32, last: bool, register: Register, part: Part) -> u64 {
        let own = self.redistributors.get(&vcpu).copied().unwrap_or_default();
        let whole = match register {
            Register::Ctlr => CTLR_FEATURES | u64::from(own.lpis_enabled),
            // Product KVM ('K'), implementer Arm.
            Register::Iidr => 0x4b00_0000 | 0x43b,
            Register::Typer => {
                affinity(vcpu) << 32
                    | u64::from(vcpu & 0xffff) << 8
                    | u64::from(last) << 4
                    | u64::from(self.has_its)
            }
            Register::Propbaser => self.propbaser,
            // PTZ is write-only.
            Register::Pendbaser => own.pendbaser & !PENDING_TABLE_ZERO,
            Register::Id(0xffe8) => 0x3b,
            Register::Id(_) | Register::Zero | Register::Invlpir | Register::Invallr => 0,
        };
        part.read(whole)
    }

    /// Writes a redistributor register. Enabling LPIs reads the pending table unless PTZ says that it is zero.
    pub(super) fn write_redistributor(
        &mut self,
        host: &dyn Host,
        vcpu: u32,
        register: Register,
        part: Part,
        value: u64,
    ) {
        let enabled = self.lpis_enabled(vcpu);
        match register {
            Register::Ctlr if self.has_its => {
                let own = self.redistributors.entry(vcpu).or_default();
                own.lpis_enabled = value & ENABLE_LPIS != 0;
                if own.lpis_enabled && !enabled && own.pendbaser & PENDING_TABLE_ZERO == 0 {
                    self.read_pending_table(host, vcpu);
                }
            }
            // Both tables are fixed while LPIs are enabled here.
            Register::Propbaser if !enabled => {
                let written = part.write(self.propbaser, value);
                self.propbaser = PROPBASER_ATTRIBUTES.sanitise(written) & !PROPBASER_RES0;
            }
            Register::Pendbaser if !enabled => {
                let own = self.redistributors.entry(vcpu).or_default();
                let written = part.write(own.pendbaser, value);
                own.pendbaser = PENDBASER_ATTRIBUTES.sanitise(written) & !PENDBASER_RES0;
            }
            Register::Invlpir if enabled && part != Part::High => {
                let intid = low32(field(value, 31, 0));
                if Lpis::contains_key(&self.lpis, &intid) {
                    // A byte outside memory leaves the LPI as it is.
                    let _ = self.load_config(host, intid);
                }
            }
            Register::Invallr if enabled && part != Part::High => self.load_configs_of(host, vcpu),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_number_the_vcpus() {
        for id in [0, 1, 15, 16, 17, 255, 4095, 4096, 0xf_ffff] {
            assert_eq!(vcpu_of_affinity(low32(affinity(id))), Some(id));
        }
        assert_eq!(vcpu_of_affinity(0x10), None, "level 0 has 16 values");
        assert_eq!(vcpu_of_affinity(0x0100_0000), None, "level 3 is unused");
    }
}
