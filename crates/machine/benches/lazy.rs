//! From the order to restore to the guest's first page: `cargo bench -p ringmark-machine --bench lazy`.
//!
//! An image of a machine of each size, whose guest writes a hot region of 8 MiB, is restored lazily and eagerly. Measured in
//! this process: opening the image; until the machine could run; until the guest has certified its next page, which is some
//! instructions and several pages of memory after its first one. Medians, on every hypervisor of this host.

use std::io;
use std::time::{Duration, Instant};

use ringmark_guest::Pattern;
use ringmark_image::{ImageId, Store};
use ringmark_machine::{
    Boot, CheckpointOptions, GuestSpec, HypervisorWish, Loading, Machine, MachineConfig, RestoreOptions,
};
use ringmark_track::Wish;

const SIZES: [u64; 3] = [256 << 20, 1 << 30, 4 << 30];
const ROUNDS: usize = 9;

fn main() {
    // `cargo test --benches` asks every bench to run nothing.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    println!("medians of {ROUNDS} restores");
    println!(
        "{:>8} {:>6} {:>6} {:>9} {:>10} {:>14} {:>9}",
        "memory", "runs on", "how", "open ms", "ready ms", "first page ms", "whole ms"
    );
    let kvm = ringmark_kvm::System::open();
    for hypervisor in [HypervisorWish::Kvm, HypervisorWish::Engine] {
        if let (HypervisorWish::Kvm, Err(error)) = (hypervisor, &kvm) {
            eprintln!("SKIPPED lazy on /dev/kvm: {error}");
            continue;
        }
        for memory in SIZES {
            let dir = tempfile::tempdir_in(".").expect("a directory beside the build");
            let store = Store::create_or_open(dir.path().join("store")).expect("a store");
            let id = image(&store, memory, hypervisor);
            for loading in [Loading::Lazy, Loading::Eager] {
                measure(&store, id, memory, hypervisor, loading);
            }
        }
    }
}

fn image(store: &Store, memory: u64, hypervisor: HypervisorWish) -> ImageId {
    let config = MachineConfig {
        name: "lazy".into(),
        memory,
        vcpus: 1,
        its: 1,
        hypervisor,
        tracking: Wish::Auto,
        boot: Boot::Guest(GuestSpec { pattern: Pattern::Zipf, hot: 8 << 20, pace: 0, seed: 1 }),
        audit: None,
    };
    let machine = Machine::create(config, Box::new(io::sink())).expect("a machine");
    machine.resume().expect("a running guest");
    std::thread::sleep(Duration::from_millis(300));
    let options = CheckpointOptions::default();
    machine.checkpoint(store, options, &mut |_| {}).expect("a base");
    std::thread::sleep(Duration::from_millis(100));
    machine.checkpoint(store, options, &mut |_| {}).expect("an increment").image
}

fn measure(store: &Store, id: ImageId, memory: u64, hypervisor: HypervisorWish, loading: Loading) {
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let image = store.image(id).expect("the image");
        times[0].push(begun.elapsed());
        let options = RestoreOptions { name: None, hypervisor, tracking: Wish::Auto, audit: None, loading };
        let machine = match Machine::restore(store, &image, options, Box::new(io::sink())) {
            Ok(machine) => machine,
            Err(error) => return eprintln!("SKIPPED {loading:?}: {error}"),
        };
        times[1].push(begun.elapsed());
        let written = machine.pages_written();
        machine.resume().expect("a running guest");
        while machine.pages_written() == written {
            std::hint::spin_loop();
        }
        times[2].push(begun.elapsed());
        machine.wait_until_whole().expect("all of memory");
        times[3].push(begun.elapsed());
    }
    let [open, ready, first, whole] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    let how = if loading == Loading::Lazy { "lazy" } else { "eager" };
    let on = if hypervisor == HypervisorWish::Kvm { "kvm" } else { "engine" };
    println!("{:>8} {on:>6} {how:>6} {open:>9.2} {ready:>10.2} {first:>14.2} {whole:>9.1}", memory >> 20);
}
