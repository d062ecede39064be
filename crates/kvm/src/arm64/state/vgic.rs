//! The registers of a VGICv3.

use ringmark_abi::Errno;
use serde::{Deserialize, Serialize};

use super::{Part, low_half};
use crate::arm64::gic::{Device, gicd, gicr, group};
use crate::arm64::register::system_index;
use crate::{StateError, Vm};

/// `ICC_CTLR_EL1`, whose bits 10 to 8 are the number of priority bits less one.
const ICC_CTLR: u32 = encoding(12, 12, 4);
/// `ICC_AP0R0_EL1` and `ICC_AP1R0_EL1`, the first of up to four each.
const ICC_APR: [u32; 2] = [encoding(12, 8, 4), encoding(12, 9, 0)];
/// `ICC_SRE_EL1`, then `ICC_CTLR_EL1`, since they decide what the others mean; then `ICC_IGRPEN0_EL1`, `ICC_IGRPEN1_EL1`,
/// `ICC_PMR_EL1`, `ICC_BPR0_EL1`, `ICC_BPR1_EL1`.
const INTERFACE: [u32; 7] = [
    encoding(12, 12, 5),
    ICC_CTLR,
    encoding(12, 12, 6),
    encoding(12, 12, 7),
    encoding(4, 6, 0),
    encoding(12, 8, 3),
    encoding(12, 12, 3),
];

/// The encoding of `S3_0_Cn_Cm_op2`.
#[expect(clippy::cast_possible_truncation, reason = "an encoding has 16 bits")]
const fn encoding(crn: u8, crm: u8, op2: u8) -> u32 {
    system_index(3, 0, crn, crm, op2) as u32
}

/// The first INTID that is not a vCPU's own.
const SHARED: u32 = 32;

/// The registers of a VGICv3, each with its offset or encoding, in the order in which they are restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgicState {
    /// How many interrupts there are below the LPIs.
    pub interrupts: u32,
    /// The distributor.
    pub distributor: Vec<(u32, u32)>,
    /// The levels of the shared interrupt lines, each word with its first INTID.
    pub line_levels: Vec<(u32, u32)>,
    /// The vCPUs' parts.
    pub cpus: Vec<CpuState>,
}

/// A vCPU's part of a VGICv3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// The vCPU's id.
    pub vcpu: u32,
    /// Its redistributor.
    pub redistributor: Vec<(u32, u32)>,
    /// The levels of its own interrupt lines.
    pub line_levels: u32,
    /// Its CPU interface.
    pub interface: Vec<(u32, u64)>,
}

/// The distributor's registers for `interrupts` interrupts, the private ones left to the redistributors.
fn distributor(interrupts: u32) -> impl Iterator<Item = u32> {
    // Every array of `bits` bits each, in words of 32.
    let words = move |first: u32, bits: u32| {
        (SHARED * bits / 32..interrupts.saturating_mul(bits).div_ceil(32)).map(move |word| first + word * 4)
    };
    // The revision comes before what it decides, the kind of interrupt before its pending state.
    [gicd::IIDR, gicd::CTLR]
        .into_iter()
        .chain(words(gicd::IGROUPR, 1))
        .chain(words(gicd::ICFGR, 2))
        .chain(words(gicd::IPRIORITYR, 8))
        .chain((SHARED..interrupts).map(|intid| gicd::IROUTER + intid * 8))
        .chain(words(gicd::ISENABLER, 1))
        .chain(words(gicd::ISPENDR, 1))
        .chain(words(gicd::ISACTIVER, 1))
}

/// A redistributor's registers; the switch for LPIs last, since it locks the tables' addresses.
fn redistributor() -> impl Iterator<Item = u32> {
    let own = |register: u32| low_half(gicr::SGI_FRAME) + register;
    let tables = [gicr::PROPBASER, gicr::PROPBASER + 4, gicr::PENDBASER, gicr::PENDBASER + 4].map(low_half);
    tables
        .into_iter()
        .chain([own(gicd::IGROUPR)])
        .chain((0..8).map(move |word| own(gicd::IPRIORITYR + word * 4)))
        .chain([own(gicd::ISENABLER), own(gicd::ISPENDR), own(gicd::ISACTIVER)])
        .chain([low_half(gicr::CTLR)])
}

/// A CPU interface's registers; how many there are of active priorities is said by `ICC_CTLR_EL1`, which is `control`.
fn interface(control: u64) -> impl Iterator<Item = u32> {
    let each = match (control >> 8 & 7) + 1 {
        ..=5 => 1,
        6 => 2,
        _ => 4,
    };
    INTERFACE.into_iter().chain(ICC_APR.into_iter().flat_map(move |first| (first..).take(each)))
}

/// The register that clears what a write to `register`, which only sets, leaves standing.
fn clears(register: u32) -> Option<u32> {
    let frame = low_half(gicr::SGI_FRAME);
    let base = if register < frame { 0 } else { frame };
    match register - base {
        offset @ gicd::ISENABLER..gicd::ICENABLER => Some(base + gicd::ICENABLER + offset - gicd::ISENABLER),
        offset @ gicd::ISACTIVER..gicd::ICACTIVER => Some(base + gicd::ICACTIVER + offset - gicd::ISACTIVER),
        _ => None,
    }
}

fn get(device: &Device, group: u32, attr: u64, part: Part) -> Result<u64, StateError> {
    let mut value = 0;
    device.get_attr(group, attr, &mut value).map_err(|errno| StateError::Save { part, errno })?;
    Ok(value)
}

fn set(device: &Device, group: u32, attr: u64, value: u64, part: Part) -> Result<(), StateError> {
    device.set_attr(group, attr, value).map_err(|errno| StateError::Restore { part, errno })
}

impl VgicState {
    /// Reads every register. All vCPUs must be out of their ioctls.
    pub(super) fn save(vm: &Vm, vgic: &Device) -> Result<Self, StateError> {
        let affinities = vm.affinities();
        let any = anyone(&affinities).map_err(|errno| StateError::Save { part: Part::Vgic, errno })?;
        let interrupts = low_half(get(vgic, group::NR_IRQS, 0, Part::NrIrqs)?);
        let registers = distributor(interrupts).map(|offset| {
            let value = get(vgic, group::DIST_REGS, offset.into(), Part::Distributor(offset))?;
            Ok((offset, low_half(value)))
        });
        let levels = (SHARED..interrupts).step_by(32).map(|first| {
            let part = Part::LineLevels { vcpu: None, first };
            Ok((first, low_half(get(vgic, group::LEVEL_INFO, any | u64::from(first), part)?)))
        });
        let cpus = affinities.iter().map(|&(vcpu, affinity)| CpuState::save(vgic, vcpu, affinity));
        Ok(Self {
            interrupts,
            distributor: registers.collect::<Result<_, _>>()?,
            line_levels: levels.collect::<Result<_, _>>()?,
            cpus: cpus.collect::<Result<_, _>>()?,
        })
    }

    /// Writes every register of an initialised VGICv3 with the same vCPUs.
    pub(super) fn restore(&self, vm: &Vm, vgic: &Device) -> Result<(), StateError> {
        let refused = |part, errno| StateError::Restore { part, errno };
        let affinities = vm.affinities();
        let any = anyone(&affinities).map_err(|errno| refused(Part::Vgic, errno))?;
        let interrupts = low_half(get(vgic, group::NR_IRQS, 0, Part::NrIrqs)?);
        if interrupts != self.interrupts {
            return Err(refused(Part::NrIrqs, Errno::EINVAL));
        }
        // The kernel takes a write to a register that it lacks for done, and nothing says that one is missing.
        let whole = names(&self.distributor).eq(distributor(interrupts))
            && names(&self.line_levels).eq((SHARED..interrupts).step_by(32))
            && self.cpus.iter().all(CpuState::is_whole);
        if !whole {
            return Err(refused(Part::Vgic, Errno::EINVAL));
        }
        for &(offset, value) in &self.distributor {
            let part = Part::Distributor(offset);
            if let Some(clear) = clears(offset) {
                set(vgic, group::DIST_REGS, clear.into(), u32::MAX.into(), part)?;
            }
            set(vgic, group::DIST_REGS, offset.into(), value.into(), part)?;
        }
        for &(first, value) in &self.line_levels {
            let part = Part::LineLevels { vcpu: None, first };
            set(vgic, group::LEVEL_INFO, any | u64::from(first), value.into(), part)?;
        }
        for cpu in &self.cpus {
            let found = affinities.iter().find(|(vcpu, _)| *vcpu == cpu.vcpu);
            let &(_, affinity) = found.ok_or_else(|| refused(Part::Vgic, Errno::ENOENT))?;
            cpu.restore(vgic, affinity)?;
        }
        Ok(())
    }
}

fn names<T>(registers: &[(u32, T)]) -> impl Iterator<Item = u32> {
    registers.iter().map(|&(name, _)| name)
}

/// The affinity of any vCPU, for attributes that name one and mean none.
fn anyone(affinities: &[(u32, u64)]) -> Result<u64, Errno> {
    affinities.first().map(|&(_, affinity)| affinity).ok_or(Errno::ENOENT)
}

impl CpuState {
    fn save(vgic: &Device, vcpu: u32, affinity: u64) -> Result<Self, StateError> {
        let registers = redistributor().map(|offset| {
            let part = Part::Redistributor { vcpu, offset };
            Ok((offset, low_half(get(vgic, group::REDIST_REGS, affinity | u64::from(offset), part)?)))
        });
        let redistributor = registers.collect::<Result<_, _>>()?;
        let read = |register| {
            let part = Part::CpuInterface { vcpu, register };
            get(vgic, group::CPU_SYSREGS, affinity | u64::from(register), part)
        };
        let interface = interface(read(ICC_CTLR)?).map(|register| Ok((register, read(register)?)));
        let interface = interface.collect::<Result<_, _>>()?;
        let part = Part::LineLevels { vcpu: Some(vcpu), first: 0 };
        let line_levels = low_half(get(vgic, group::LEVEL_INFO, affinity, part)?);
        Ok(Self { vcpu, redistributor, line_levels, interface })
    }

    /// Whether it has each register once, in the order in which they are restored.
    fn is_whole(&self) -> bool {
        let control = self.interface.iter().find(|(register, _)| *register == ICC_CTLR);
        names(&self.redistributor).eq(redistributor())
            && control.is_some_and(|&(_, control)| names(&self.interface).eq(interface(control)))
    }

    fn restore(&self, vgic: &Device, affinity: u64) -> Result<(), StateError> {
        let vcpu = self.vcpu;
        for &(offset, value) in &self.redistributor {
            let part = Part::Redistributor { vcpu, offset };
            if let Some(clear) = clears(offset) {
                set(vgic, group::REDIST_REGS, affinity | u64::from(clear), u32::MAX.into(), part)?;
            }
            set(vgic, group::REDIST_REGS, affinity | u64::from(offset), value.into(), part)?;
        }
        let part = Part::LineLevels { vcpu: Some(vcpu), first: 0 };
        set(vgic, group::LEVEL_INFO, affinity, self.line_levels.into(), part)?;
        for &(register, value) in &self.interface {
            let part = Part::CpuInterface { vcpu, register };
            set(vgic, group::CPU_SYSREGS, affinity | u64::from(register), value, part)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distributor_has_a_register_for_every_shared_interrupt() {
        let all: Vec<_> = distributor(64).collect();
        assert_eq!(all.len(), 2 + 1 + 2 + 8 + 32 + 3);
        assert_eq!(all[..5], [0x8, 0x0, 0x84, 0xc08, 0xc0c]);
        assert!(all.contains(&0x6100) && all.contains(&0x61f8) && !all.contains(&0x6200));
        assert_eq!(all[45..], [0x104, 0x204, 0x304]);
        assert_eq!(distributor(32).count(), 2, "nothing is shared");
    }

    #[test]
    fn what_only_sets_is_cleared_first() {
        assert_eq!(clears(0x104), Some(0x184));
        assert_eq!(clears(0x1_0300), Some(0x1_0380));
        assert_eq!(clears(0x204), None, "user space writes pending bits as they are");
        assert_eq!(clears(0x0), None);
    }

    #[test]
    fn encodings_are_the_architectures() {
        assert_eq!(ICC_CTLR, 0xc664);
        assert_eq!(INTERFACE[4], 0xc230, "ICC_PMR_EL1");
        assert_eq!(ICC_APR, [0xc644, 0xc648]);
        assert_eq!(interface(0x8c00).skip(7).collect::<Vec<_>>(), [0xc644, 0xc648], "five bits of priority");
        assert_eq!(interface(0x700).count(), 7 + 8, "eight");
    }
}
