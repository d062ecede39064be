//! What the kernel offers, and the backup bitmap's place in the order of enabling.

use ringmark_abi::{EnableCap, Errno, cap, mem};

use crate::bench::Bench;
use crate::case::Case;
use crate::facts::{RING_BYTES_MAX, Rules};
use crate::verdict::{Must, Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T01",
        "capabilities",
        [Nothing],
        capabilities,
        "kvm_vm_ioctl_check_extension_generic",
        "The four capabilities of dirty tracking have the architecture's values, alike on /dev/kvm and on a VM."
    ),
    case!(
        "T12",
        "bitmap-before-ring",
        [WithBitmap],
        bitmap_before_ring,
        "kvm_vm_ioctl_enable_cap_generic",
        "The backup bitmap cannot be enabled before a ring."
    ),
    case!(
        "T13",
        "bitmap-idempotent",
        [WithBitmap],
        bitmap_idempotent,
        "kvm_vm_ioctl_enable_cap_generic",
        "The backup bitmap can be enabled after a ring, again, and with any argument."
    ),
    case!(
        "T14",
        "bitmap-flags",
        [WithBitmap],
        bitmap_flags,
        "kvm_vm_ioctl_enable_cap_generic",
        "The backup bitmap refuses flags."
    ),
    case!(
        "T15",
        "bitmap-after-memslot",
        [WithBitmap],
        bitmap_after_memslot,
        "kvm_are_all_memslots_empty",
        "The backup bitmap cannot be enabled while any memslot exists, logging or not."
    ),
    case!(
        "T16",
        "bitmap-after-vcpu",
        [WithBitmap],
        bitmap_after_vcpu,
        "kvm_vm_ioctl_enable_cap_generic",
        "A vCPU does not stand in the way of the backup bitmap."
    ),
    case!(
        "T17",
        "bitmap-absent",
        [X86],
        bitmap_absent,
        "kvm_vm_ioctl_enable_cap_generic",
        "x86 refuses the backup bitmap with and without a ring."
    ),
];

fn capabilities(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let both = [
        (cap::DIRTY_LOG_RING, RING_BYTES_MAX, 0),
        (cap::DIRTY_LOG_RING_ACQ_REL, RING_BYTES_MAX, RING_BYTES_MAX),
        (cap::DIRTY_LOG_RING_WITH_BITMAP, 0, 1),
        (cap::MANUAL_DIRTY_LOG_PROTECT2, 3, 3),
    ];
    for (cap, x86, arm64) in both {
        let want = match bench.facts().rules {
            Rules::X86 => x86,
            Rules::Arm64 => arm64,
        };
        equal(format!("capability {cap} on /dev/kvm"), bench.target().check_extension(cap), Ok(want))?;
        equal(format!("capability {cap} on the VM"), vm.vm().check_extension(cap), Ok(want))?;
    }
    Ok(())
}

fn bitmap_before_ring(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    equal("bitmap before ring", vm.cap(cap::DIRTY_LOG_RING_WITH_BITMAP, 0), Err(Errno::EINVAL))
}

fn bitmap_idempotent(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    for (what, arg) in [("first", 0), ("second", 0), ("with an argument", 123)] {
        equal(format!("bitmap, {what}"), vm.cap(cap::DIRTY_LOG_RING_WITH_BITMAP, arg), Ok(()))?;
    }
    Ok(())
}

fn bitmap_flags(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let flagged = EnableCap { flags: 1, ..EnableCap::new(cap::DIRTY_LOG_RING_WITH_BITMAP, 0) };
    equal("bitmap with flags = 1", vm.vm().enable_cap(&flagged), Err(Errno::EINVAL))
}

fn bitmap_after_memslot(bench: &Bench) -> Verdict {
    for flags in [0, mem::LOG_DIRTY_PAGES] {
        let vm = bench.ring(1024)?;
        let slot = vm.slot(1, 0x1000, 16, flags)?;
        let enable = || vm.cap(cap::DIRTY_LOG_RING_WITH_BITMAP, 0);
        equal(format!("bitmap beside a memslot with flags {flags}"), enable(), Err(Errno::EINVAL))?;
        vm.delete(&slot)?;
        equal("bitmap after the memslot is deleted", enable(), Ok(()))?;
    }
    Ok(())
}

fn bitmap_after_vcpu(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let _vcpu = vm.vcpu(0)?;
    equal("bitmap after a vCPU", vm.cap(cap::DIRTY_LOG_RING_WITH_BITMAP, 0), Ok(()))
}

fn bitmap_absent(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let enable = || vm.cap(cap::DIRTY_LOG_RING_WITH_BITMAP, 0);
    equal("bitmap without ring", enable(), Err(Errno::EINVAL))?;
    if bench.facts().ring {
        vm.cap(vm.ring_cap()?, RING_BYTES_MAX).must("enabling the ring")?;
        equal("bitmap with ring", enable(), Err(Errno::EINVAL))?;
    }
    Ok(())
}
