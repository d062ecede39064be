//! Kicks: none is lost, wherever the vCPU's thread happens to be.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use ringmark_kvm::{Exit, Kick, Vcpu};

/// What a kicker tells a vCPU's thread, and what that thread has seen; it looks after `Interrupted` only.
#[derive(Default)]
struct Board {
    told: AtomicU64,
    seen: AtomicU64,
    stop: AtomicBool,
}

impl Board {
    fn run(&self, vcpu: &mut Vcpu) {
        loop {
            match vcpu.run().unwrap() {
                Exit::Interrupted => {
                    if self.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    self.seen.store(self.told.load(Ordering::Relaxed), Ordering::Release);
                }
                Exit::IoOut { port: DONE, .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Tells, kicks once, and waits; a lost kick is a hang, so the wait has a bound that no busy machine reaches.
    fn tell(&self, kick: &Kick) -> Duration {
        let token = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        let begin = Instant::now();
        kick.kick().unwrap();
        while self.seen.load(Ordering::Acquire) != token {
            assert!(begin.elapsed() < Duration::from_secs(30), "kick {token} is lost");
            std::thread::yield_now();
        }
        begin.elapsed()
    }

    fn finish(&self, kick: &Kick) {
        self.stop.store(true, Ordering::Relaxed);
        kick.kick().unwrap();
    }
}

fn storm(name: &str, program: (u64, &'static [u8]), kicks: usize) {
    let Some(system) = system(name) else { return };
    let guest = Guest::new(&system, 0);
    let mut vcpu = guest.vcpu(0);
    start(&mut vcpu, program, Default::default());
    let (board, kick) = (Board::default(), vcpu.kick_handle());
    let mut waits: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| board.run(&mut vcpu));
        let waits = (0..kicks).map(|_| board.tell(&kick)).collect();
        board.finish(&kick);
        waits
    });
    waits.sort_unstable();
    let (median, p99) = (waits[kicks / 2], waits[kicks * 99 / 100]);
    eprintln!("{name}: {kicks} kicks, median {median:?}, p99 {p99:?}, worst {:?}", waits[kicks - 1]);
}

#[test]
fn a_spinning_guest_is_kicked_out_every_time() {
    storm("a_spinning_guest_is_kicked_out_every_time", SPIN, 3000);
}

#[test]
fn a_guest_that_keeps_leaving_is_kicked_out_every_time() {
    storm("a_guest_that_keeps_leaving_is_kicked_out_every_time", CALL, 2000);
}

#[test]
fn a_kick_before_the_run_is_kept_for_it() {
    let Some(system) = system("a_kick_before_the_run_is_kept_for_it") else { return };
    let guest = Guest::new(&system, 0);
    let mut vcpu = guest.vcpu(0);
    start(&mut vcpu, CALL, Default::default());
    let kick = vcpu.kick_handle();
    kick.kick().unwrap();
    kick.kick().unwrap();
    assert_eq!(vcpu.run(), Ok(Exit::Interrupted));
    assert!(matches!(vcpu.run(), Ok(Exit::IoOut { port: DONE, .. })), "several kicks are one");
    kick.kick().unwrap();
    assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted));
    assert_eq!(vcpu.run(), Ok(Exit::Interrupted), "finishing what is pending takes no kick");
    assert!(matches!(vcpu.run(), Ok(Exit::IoOut { port: DONE, .. })));
    vcpu.set_immediate_exit(true);
    vcpu.set_immediate_exit(false);
    assert!(matches!(vcpu.run(), Ok(Exit::IoOut { port: DONE, .. })));
}

#[test]
fn a_vcpu_that_waits_for_its_start_can_be_kicked() {
    let Some(system) = system("a_vcpu_that_waits_for_its_start_can_be_kicked") else { return };
    let guest = Guest::new(&system, 0);
    let _boot = guest.vcpu(0);
    let mut vcpu = guest.vm.create_vcpu(1).unwrap();
    let (board, kick) = (Board::default(), vcpu.kick_handle());
    std::thread::scope(|scope| {
        scope.spawn(|| board.run(&mut vcpu));
        for _ in 0..100 {
            board.tell(&kick);
        }
        board.finish(&kick);
    });
}

#[test]
fn a_thread_made_with_signals_blocked_can_be_kicked() {
    let Some(system) = system("a_thread_made_with_signals_blocked_can_be_kicked") else { return };
    let guest = Guest::new(&system, 0);
    let mut vcpu = guest.vcpu(0);
    start(&mut vcpu, SPIN, Default::default());
    let (board, kick) = (Board::default(), vcpu.kick_handle());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            common::block_all_signals();
            board.run(&mut vcpu);
        });
        for _ in 0..100 {
            board.tell(&kick);
        }
        board.finish(&kick);
    });
}

#[test]
fn a_kick_outlives_its_vcpu() {
    let Some(system) = system("a_kick_outlives_its_vcpu") else { return };
    let guest = Guest::new(&system, 0);
    let kick = guest.vcpu(0).kick_handle();
    kick.kick().unwrap();
    drop(guest);
    kick.clone().kick().unwrap();
}
