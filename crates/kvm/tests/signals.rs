//! A reset that a signal interrupts.

#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "signals by number")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::sync::Arc;

use common::*;
use ringmark_abi::Vm as _;
use ringmark_dirty::{Harvester, RingMemory};
use ringmark_kvm::Vcpu;

const PAGES: u64 = 60_000;
const RING: u32 = 65_536;

type Ring = Harvester<Arc<dyn RingMemory>>;

fn noisy_signal() -> i32 {
    libc::SIGRTMIN() + 5
}

extern "C" fn nothing(_: libc::c_int) {}

/// A timer that sends this thread a signal every 100 µs until it is dropped.
struct Fire(libc::timer_t);

impl Fire {
    fn open() -> Self {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: an empty handler is safe at any instant.
        let old = unsafe { libc::signal(noisy_signal(), handler as *const () as usize) };
        assert_ne!(old, libc::SIG_ERR);
        // SAFETY: a sigevent may be zero; timer_create and timer_settime read and write the locals they are given.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = noisy_signal();
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer = std::ptr::null_mut();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer), 0);
            let every = libc::timespec { tv_sec: 0, tv_nsec: 100_000 };
            let times = libc::itimerspec { it_interval: every, it_value: every };
            assert_eq!(libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut()), 0);
            Self(timer)
        }
    }
}

impl Drop for Fire {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's own.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Whether the noisy signal waits for this thread to unblock it.
fn is_pending() -> bool {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigpending initialises the set that sigismember reads.
    unsafe {
        assert_eq!(libc::sigpending(set.as_mut_ptr()), 0);
        libc::sigismember(set.as_ptr(), noisy_signal()) == 1
    }
}

/// Resets in a thread that is sent signals all the while; the counts of its resets until they sum to `harvested`.
fn reset_under_fire(guest: &Guest, harvested: u64, block: bool) -> Vec<u32> {
    let reset = || {
        if block {
            block_all_signals();
        }
        let _fire = Fire::open();
        if block {
            while !is_pending() {}
        }
        let mut counts = Vec::new();
        // An interrupted reset may take several; one that counts nothing for so long would be another fault.
        while counts.iter().map(|&n| u64::from(n)).sum::<u64>() < harvested && counts.len() < 100_000 {
            counts.push(guest.vm.reset_dirty_rings().unwrap());
        }
        counts
    };
    std::thread::scope(|scope| scope.spawn(reset).join().unwrap())
}

fn harvest(ring: &mut Ring, guest: &Guest) -> u64 {
    ring.harvest(&guest.table()).count() as u64
}

/// Writes every page, harvests, resets under fire, writes every page again: the resets' counts, and how many pages
/// the second sweep did *not* log.
fn sweep(guest: &Guest, vcpu: &mut Vcpu, ring: &mut Ring, block: bool) -> (Vec<u32>, u64) {
    touch(vcpu, DATA, PAGES, 1);
    let harvested = harvest(ring, guest);
    let counts = reset_under_fire(guest, harvested, block);
    touch(vcpu, DATA, PAGES, 2);
    let logged = harvest(ring, guest);
    assert_eq!(guest.vm.reset_dirty_rings().map(u64::from), Ok(logged));
    (counts, PAGES.saturating_sub(logged))
}

#[test]
fn a_reset_with_signals_blocked_is_whole() {
    let Some(system) = system("a_reset_with_signals_blocked_is_whole") else { return };
    let mut guest = Guest::new(&system, RING);
    guest.add_logged(1, PAGES);
    let mut vcpu = guest.vcpu(0);
    let mut ring = Harvester::new(vcpu.ring_memory().unwrap()).unwrap();
    for _ in 0..5 {
        let (counts, lost) = sweep(&guest, &mut vcpu, &mut ring, true);
        assert_eq!(counts.len(), 1, "one reset takes all: {counts:?}");
        assert_eq!(lost, 0);
    }
}

/// A probe and no test: it says what this kernel does to a reset whose thread takes signals, and asserts nothing of
/// it.
#[test]
fn probe_a_reset_with_signals_unblocked() {
    let Some(system) = system("probe_a_reset_with_signals_unblocked") else { return };
    let mut guest = Guest::new(&system, RING);
    guest.add_logged(1, PAGES);
    let mut vcpu = guest.vcpu(0);
    let mut ring = Harvester::new(vcpu.ring_memory().unwrap()).unwrap();
    // Whatever is lost stays writable until logging is switched off and on, so one sweep a VM tells most.
    let (counts, lost) = sweep(&guest, &mut vcpu, &mut ring, false);
    let some = &counts[..counts.len().min(8)];
    eprintln!(
        "PROBE reset under signals: {} calls, counts {some:?}…, {lost} pages no longer logged",
        counts.len()
    );
    let slot = ringmark_dirty::SlotId::new(0, 1);
    guest.vm.set_memslot_flags(slot, 0).unwrap();
    guest.vm.set_memslot_flags(slot, ringmark_abi::mem::LOG_DIRTY_PAGES).unwrap();
    let (_, lost) = sweep(&guest, &mut vcpu, &mut ring, true);
    assert_eq!(lost, 0, "logging switched off and on makes tracking whole again");
}
