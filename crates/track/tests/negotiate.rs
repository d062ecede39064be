//! Capabilities are enabled in the kernel's order, and every refusal says what to do.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use ringmark_abi::{Errno, cap};
use ringmark_track::{Chosen, KernelWrites, Mapping, Method, Needs, NegotiateError, Wish};
use support::Script;

const MIB: u64 = 1 << 20;
const X86: &[(u32, u64)] =
    &[(cap::DIRTY_LOG_RING, MIB), (cap::DIRTY_LOG_RING_ACQ_REL, MIB), (cap::MANUAL_DIRTY_LOG_PROTECT2, 3)];
const ARM64: &[(u32, u64)] = &[
    (cap::DIRTY_LOG_RING_ACQ_REL, MIB),
    (cap::DIRTY_LOG_RING_WITH_BITMAP, 1),
    (cap::MANUAL_DIRTY_LOG_PROTECT2, 3),
];

/// What every VM on `/dev/kvm` of x86-64 needs.
const PLAIN: Needs = Needs { kernel_writes: KernelWrites::None, mapping: Mapping::HugePages };

fn negotiate(vm: &Script, wish: Wish) -> Result<Chosen, NegotiateError> {
    ringmark_track::negotiate(vm, wish, PLAIN)
}

fn enabled(vm: &Script) -> Vec<(u32, u64)> {
    vm.enabled.lock().unwrap().iter().map(|cap| (cap.cap, cap.args[0])).collect()
}

#[test]
fn x86_prefers_acq_rel_and_the_largest_ring() {
    let vm = Script::new(X86);
    let chosen = negotiate(&vm, Wish::Auto).unwrap();
    assert_eq!(chosen.method, Method::Ring { entries: 65536 });
    assert_eq!(enabled(&vm), [(cap::DIRTY_LOG_RING_ACQ_REL, MIB), (cap::MANUAL_DIRTY_LOG_PROTECT2, 0)]);
    assert!(chosen.to_string().starts_with("ring of 65536 entries: "), "{chosen}");
}

#[test]
fn an_older_x86_falls_back_to_tso() {
    let vm = Script::new(&[(cap::DIRTY_LOG_RING, MIB)]);
    negotiate(&vm, Wish::Ring { entries: Some(4096) }).unwrap();
    assert_eq!(enabled(&vm), [(cap::DIRTY_LOG_RING, 65536)]);
}

#[test]
fn the_backup_bitmap_follows_the_ring_wherever_it_is_offered() {
    let vm = Script::new(ARM64);
    let chosen = negotiate(&vm, Wish::Ring { entries: None }).unwrap();
    assert_eq!(chosen.method, Method::RingWithBitmap { entries: 65536 });
    assert_eq!(
        enabled(&vm),
        [
            (cap::DIRTY_LOG_RING_ACQ_REL, MIB),
            (cap::DIRTY_LOG_RING_WITH_BITMAP, 0),
            (cap::MANUAL_DIRTY_LOG_PROTECT2, 0)
        ]
    );
}

/// A ring alone is taken where it loses nothing, and nowhere else: a write that no vCPU makes has no ring, and arm64 maps
/// huge pages writable as a block where a memslot has no bitmap.
#[test]
fn a_ring_alone_is_refused_where_it_would_lose_pages() {
    use KernelWrites::{InterruptTables, None};
    use Mapping::{HugePages, SmallPages};

    const ARM64_ALONE: &[(u32, u64)] =
        &[(cap::DIRTY_LOG_RING_ACQ_REL, MIB), (cap::MANUAL_DIRTY_LOG_PROTECT2, 3)];
    let alone = Method::Ring { entries: 65536 };
    let with_bitmap = Method::RingWithBitmap { entries: 65536 };
    let cases = [
        (ARM64_ALONE, None, SmallPages, Ok(alone)),
        (ARM64_ALONE, None, HugePages, Err(NegotiateError::HugePagesUntracked)),
        (ARM64_ALONE, InterruptTables, SmallPages, Err(NegotiateError::TablesUntracked)),
        (ARM64_ALONE, InterruptTables, HugePages, Err(NegotiateError::TablesUntracked)),
        (X86, None, SmallPages, Ok(alone)),
        (X86, None, HugePages, Ok(alone)),
        (X86, InterruptTables, SmallPages, Err(NegotiateError::TablesUntracked)),
        (ARM64, InterruptTables, HugePages, Ok(with_bitmap)),
        (ARM64, None, SmallPages, Ok(with_bitmap)),
    ];
    for (caps, kernel_writes, mapping, expected) in cases {
        let needs = Needs { kernel_writes, mapping };
        let vm = Script::new(caps);
        let asked = ringmark_track::negotiate(&*vm, Wish::Ring { entries: Option::None }, needs);
        assert_eq!(asked.map(|chosen| chosen.method), expected, "{needs:?} with {caps:?}");

        // Left to itself it takes bitmaps instead, and says what it would have lost.
        let Err(refusal) = expected else { continue };
        assert!(enabled(&vm).is_empty(), "a refusal of ours leaves the VM as it was");
        let text = refusal.to_string();
        assert!(
            text.contains("KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP") && text.contains("Track with bitmaps"),
            "{text}"
        );
        let chosen = ringmark_track::negotiate(&*vm, Wish::Auto, needs).unwrap();
        assert_eq!((chosen.method, chosen.why), (Method::Bitmap, text));
    }
}

#[test]
fn bitmaps_have_manual_protect_and_never_initially_set() {
    for wish in [Wish::Bitmap, Wish::Auto] {
        let vm = Script::new(&[(cap::MANUAL_DIRTY_LOG_PROTECT2, 3)]);
        assert_eq!(negotiate(&vm, wish).unwrap().method, Method::Bitmap);
        assert_eq!(enabled(&vm), [(cap::MANUAL_DIRTY_LOG_PROTECT2, 1)]);
    }
    let vm = Script::new(&[]);
    assert_eq!(negotiate(&vm, Wish::Auto), Err(NegotiateError::NoManualProtect));
    assert_eq!(negotiate(&vm, Wish::Ring { entries: Some(1024) }), Err(NegotiateError::NoRing));
}

#[test]
fn sizes_are_checked_before_the_kernel_is_asked() {
    let vm = Script::new(X86);
    let ask = |entries| negotiate(&vm, Wish::Ring { entries: Some(entries) });
    assert_eq!(ask(6000), Err(NegotiateError::NotPowerOfTwo { entries: 6000, below: 4096, above: 8192 }));
    assert_eq!(ask(0), Err(NegotiateError::NotPowerOfTwo { entries: 0, below: 1, above: 1 }));
    assert_eq!(
        ask(u32::MAX),
        Err(NegotiateError::NotPowerOfTwo { entries: u32::MAX, below: 32768, above: 65536 })
    );
    assert_eq!(ask(128), Err(NegotiateError::TooSmall { entries: 128, least: 256 }));
    assert_eq!(ask(131_072), Err(NegotiateError::TooLarge { entries: 131_072, most: 65536 }));
    // 2^28 entries are 2^32 bytes, which the kernel would truncate to 0.
    assert_eq!(ask(1 << 28), Err(NegotiateError::TooLarge { entries: 1 << 28, most: 65536 }));
    assert!(enabled(&vm).is_empty());
    let text = ask(6000).unwrap_err().to_string();
    assert!(text.contains("4096") && text.contains("8192"), "{text}");
}

#[test]
fn refusals_of_the_host_say_what_to_do() {
    let vm = Script::new(ARM64);
    vm.refuse_cap.lock().unwrap().insert(cap::DIRTY_LOG_RING_WITH_BITMAP, Errno::EINVAL);
    let error = negotiate(&vm, Wish::Auto).unwrap_err();
    assert_eq!(error, NegotiateError::BitmapRefused(Errno::EINVAL));
    assert!(error.to_string().contains("before the first memslot"), "{error}");

    let vm = Script::new(X86);
    vm.refuse_cap.lock().unwrap().insert(cap::DIRTY_LOG_RING_ACQ_REL, Errno::EINVAL);
    let error = negotiate(&vm, Wish::Auto).unwrap_err();
    assert_eq!(error, NegotiateError::RingRefused { entries: 65536, errno: Errno::EINVAL });
    assert!(error.to_string().contains("right after the VM is created"), "{error}");
}
