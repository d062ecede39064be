//! Machines for tests: on the engine everywhere, on /dev/kvm where there is one.

use std::io;
use std::time::{Duration, Instant};

use ringmark_guest::Pattern;
use ringmark_image::Store;
use ringmark_machine::{
    Boot, Checkpoint, CheckpointOptions, GuestSpec, HypervisorWish, Machine, MachineConfig,
};
use ringmark_track::{AuditRate, Wish};

/// Runs `test` on every hypervisor of this host, and says where it was skipped.
#[allow(dead_code, reason = "not every test program has such tests")]
pub(crate) fn on_each(name: &str, test: impl Fn(HypervisorWish)) {
    test(HypervisorWish::Engine);
    match ringmark_kvm::System::open() {
        Ok(_) => test(HypervisorWish::Kvm),
        Err(error) => eprintln!("SKIPPED {name} on /dev/kvm: {error}"),
    }
}

pub(crate) fn guest(hypervisor: HypervisorWish, tracking: Wish, pattern: Pattern) -> MachineConfig {
    MachineConfig {
        name: "test".into(),
        memory: 64 << 20,
        vcpus: 2,
        its: 1,
        hypervisor,
        tracking,
        boot: Boot::Guest(GuestSpec { pattern, hot: 4 << 20, pace: 0, seed: 7 }),
        audit: Some(AuditRate::EVERY_PAGE),
    }
}

pub(crate) fn create(config: MachineConfig) -> Machine {
    Machine::create(config, Box::new(io::sink())).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    (dir, store)
}

pub(crate) fn checkpoint(machine: &Machine, store: &Store) -> Checkpoint {
    machine
        .checkpoint(store, CheckpointOptions::default(), &mut |_| {})
        .unwrap_or_else(|e| panic!("checkpoint: {e}"))
}

/// Waits until the guest has written `pages` more pages.
pub(crate) fn let_write(machine: &Machine, pages: u64) {
    let begun = Instant::now();
    let target = machine.pages_written().unwrap() + pages;
    while machine.pages_written().unwrap() < target {
        assert_eq!(machine.outcome().map(|o| o.map_err(|e| e.to_string())), None, "the machine ended");
        assert!(begun.elapsed() < Duration::from_secs(60), "the guest writes nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
}
