//! Enabling the ring: which sizes, when, and on what.

use ringmark_abi::{EnableCap, Errno, cap};

use crate::bench::Bench;
use crate::case::Case;
use crate::facts::{ENTRY_BYTES, RING_BYTES_MAX};
use crate::verdict::{Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T02",
        "ring-bad-sizes",
        [Ring],
        bad_sizes,
        "kvm_vm_ioctl_enable_dirty_log_ring",
        "A ring whose size is 0, no power of two, or below a page or the reserve is refused."
    ),
    case!(
        "T03",
        "ring-good-sizes",
        [Ring],
        good_sizes,
        "kvm_vm_ioctl_enable_dirty_log_ring",
        "Rings from one page (more with a page-modification log) to 1 MiB are accepted."
    ),
    case!(
        "T04",
        "ring-too-big",
        [Ring],
        too_big,
        "kvm_vm_ioctl_enable_dirty_log_ring",
        "A ring over 1 MiB is too big, not invalid."
    ),
    case!(
        "T05",
        "ring-size-truncated",
        [Ring],
        truncated,
        "kvm_vm_ioctl_enable_cap_generic",
        "Only the lower 32 bits of the size count."
    ),
    case!(
        "T06",
        "ring-flags-ignored",
        [Ring],
        flags_ignored,
        "kvm_vm_ioctl_enable_cap_generic",
        "Flags and the other arguments of the ring capability are not looked at."
    ),
    case!(
        "T07",
        "ring-once",
        [Ring],
        once,
        "kvm_vm_ioctl_enable_dirty_log_ring",
        "A VM's rings are chosen once; a size over 1 MiB is too big even then."
    ),
    case!(
        "T08",
        "ring-before-vcpus",
        [Ring],
        before_vcpus,
        "kvm_vm_ioctl_enable_dirty_log_ring",
        "Once a vCPU was created, rings cannot be enabled, even when its descriptor is closed."
    ),
    case!(
        "T09",
        "ring-on-vm-only",
        [Ring],
        on_vm_only,
        "kvm_vcpu_ioctl, kvm_dev_ioctl",
        "Rings cannot be enabled on a vCPU or on /dev/kvm."
    ),
    case!(
        "T10",
        "ring-needs-acq-rel",
        [Arm64, Ring],
        needs_acq_rel,
        "kvm_vm_ioctl_enable_cap_generic",
        "A weakly ordered architecture refuses the ring capability without acquire and release."
    ),
    case!(
        "T11",
        "ring-after-log-slot",
        [Ring],
        after_log_slot,
        "kvm_get_dirty_log_protect",
        "Rings can be enabled beside a logging memslot, whose bitmap then can no longer be read."
    ),
];

fn bad_sizes(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    for bytes in [0, 1, 16, 1024, 2048, 6000, 12288] {
        equal(format!("ring of {bytes} bytes"), vm.try_ring(bytes)?, Err(Errno::EINVAL))?;
    }
    Ok(())
}

fn good_sizes(bench: &Bench) -> Verdict {
    let smallest = u64::from(bench.facts().smallest_ring()) * ENTRY_BYTES;
    for bytes in [4096, 8192, 16384, 65536, RING_BYTES_MAX] {
        let vm = bench.vm()?;
        let want = if bytes >= smallest { Ok(()) } else { Err(Errno::EINVAL) };
        equal(format!("ring of {bytes} bytes"), vm.try_ring(bytes)?, want)?;
    }
    Ok(())
}

fn too_big(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    for bytes in [2 << 20, 2 << 30] {
        equal(format!("ring of {bytes} bytes"), vm.try_ring(bytes)?, Err(Errno::E2BIG))?;
    }
    Ok(())
}

fn truncated(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    equal("ring of 2^32 bytes", vm.try_ring(1 << 32)?, Err(Errno::EINVAL))?;
    equal("ring of 2^32 + 65536 bytes", vm.try_ring((1 << 32) + 65536)?, Ok(()))?;
    let cpu = vm.vcpu(0)?;
    equal("entries of that ring", cpu.ring_len() as u64, 65536 / ENTRY_BYTES)
}

fn flags_ignored(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let enable = EnableCap { cap: vm.ring_cap()?, flags: 1, args: [65536, 1, 2, 3] };
    equal("ring with flags = 1", vm.vm().enable_cap(&enable), Ok(()))
}

fn once(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    equal("the first ring", vm.try_ring(65536)?, Ok(()))?;
    equal("the same ring again", vm.try_ring(65536)?, Err(Errno::EINVAL))?;
    for cap in [cap::DIRTY_LOG_RING, cap::DIRTY_LOG_RING_ACQ_REL] {
        equal(format!("again by capability {cap}"), vm.cap(cap, 65536), Err(Errno::EINVAL))?;
    }
    equal("a ring of another size", vm.try_ring(131_072)?, Err(Errno::EINVAL))?;
    equal("a second ring of 2 MiB", vm.try_ring(2 << 20)?, Err(Errno::E2BIG))
}

fn before_vcpus(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let cpu = vm.vcpu(0)?;
    equal("ring after a vCPU", vm.try_ring(65536)?, Err(Errno::EINVAL))?;
    drop(cpu);
    equal("ring after the vCPU is closed", vm.try_ring(65536)?, Err(Errno::EINVAL))
}

fn on_vm_only(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let enable = EnableCap::new(vm.ring_cap()?, 65536);
    equal("ring on /dev/kvm", bench.target().enable_cap(&enable), Err(Errno::EINVAL))?;
    let mut cpu = vm.vcpu(0)?;
    equal("ring on a vCPU", cpu.raw().enable_cap(&enable), Err(Errno::EINVAL))
}

fn needs_acq_rel(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    equal("ring by capability 192", vm.cap(cap::DIRTY_LOG_RING, 65536), Err(Errno::EINVAL))
}

fn after_log_slot(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    equal("ring beside a logging memslot", vm.try_ring(65536)?, Ok(()))?;
    equal("KVM_GET_DIRTY_LOG of that memslot", vm.try_get(&slot), Err(Errno::ENXIO))
}
