//! Random machines.

use fastrand::Rng;
use ringmark_guest::Pattern;
use ringmark_machine::{Boot, GuestSpec, HypervisorWish, Loading, MachineConfig, RestoreOptions};
use ringmark_track::{AuditRate, Wish};

use crate::Hypervisor;

const MIB: u64 = 1 << 20;

pub(crate) const fn wish(hypervisor: Hypervisor) -> HypervisorWish {
    match hypervisor {
        Hypervisor::Kvm => HypervisorWish::Kvm,
        Hypervisor::Engine => HypervisorWish::Engine,
    }
}

pub(crate) fn config(hypervisor: Hypervisor, rng: &mut Rng) -> MachineConfig {
    let memory = (16 << rng.u32(..3)) * MIB;
    let mut pattern = Pattern::ALL[rng.usize(..Pattern::ALL.len())];
    if let Pattern::Bursty { burst, idle } = &mut pattern {
        (*burst, *idle) = (rng.u64(1..512), rng.u64(..65_536));
    }
    let spec = GuestSpec {
        pattern,
        hot: (memory >> rng.u32(2..6)).max(MIB),
        pace: if rng.bool() { 0 } else { rng.u64(..10_000) },
        seed: rng.u64(..),
    };
    MachineConfig {
        name: "tortured".into(),
        memory,
        vcpus: rng.u32(1..=3),
        hypervisor: wish(hypervisor),
        tracking: tracking(rng),
        boot: Boot::Guest(spec),
        its: rng.u32(..=2),
        audit: Some(AuditRate::EVERY_PAGE),
    }
}

/// Rings of any size that every host takes, or bitmaps.
fn tracking(rng: &mut Rng) -> Wish {
    match rng.u8(..4) {
        0 => Wish::Auto,
        1 => Wish::Bitmap,
        _ => Wish::Ring { entries: Some(1024 << rng.u32(..6)) },
    }
}

/// Before its first instruction, with every cut audited; or while it runs, if `may_be_lazy`, without: an audit would
/// read all of memory first.
pub(crate) fn restoring(hypervisor: Hypervisor, rng: &mut Rng, may_be_lazy: bool) -> RestoreOptions {
    let is_lazy = rng.u8(..3) == 0 && may_be_lazy;
    RestoreOptions {
        name: None,
        hypervisor: wish(hypervisor),
        tracking: tracking(rng),
        audit: (!is_lazy).then_some(AuditRate::EVERY_PAGE),
        loading: if is_lazy { Loading::Lazy } else { Loading::Eager },
    }
}
