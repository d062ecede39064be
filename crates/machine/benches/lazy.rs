//! From the order to restore to the guest's first instruction: `cargo bench -p ringmark-machine --bench lazy [-- kvm|engine]`.
//!
//! Images of machines of each size, whose guest writes a hot region of 8 MiB: once with everything else zero, and once with
//! every page above it written, too. Measured in this process, from before the image is opened: until it is open; until its
//! vCPUs are let into the guest, whose first instruction is then the next thing that the processor does; until the guest has
//! certified its next page, for which several pages of its memory have to come. Medians, on every hypervisor of this host.
//!
//! Then what the recorded working set brings: the image of 1 GiB again without it, so that memory comes in its own order, and
//! until the guest has certified 4,000 pages, two for each page of its hot region.

use std::io;
use std::time::{Duration, Instant};

use ringmark_dirty::DirtyPages;
use ringmark_guest::Pattern;
use ringmark_image::{ImageId, ImageSpec, Store};
use ringmark_machine::{
    Boot, CheckpointOptions, GuestSpec, HypervisorWish, Loading, Machine, MachineConfig, RestoreOptions,
};
use ringmark_track::Wish;

const SIZES: [u64; 3] = [256 << 20, 1 << 30, 4 << 30];
const ROUNDS: usize = 15;
/// Bytes of a page that is written besides the guest's which are random.
const RANDOM: usize = 256;
/// The part of an image that names its working set.
const WORKING_SET: &str = "working-set";

fn main() {
    // `cargo test --benches` asks every bench to run nothing.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    println!("medians of {ROUNDS} restores, in milliseconds since the order");
    println!(
        "{:>8} {:>8} {:>8} {:>6} {:>8} {:>12} {:>12}",
        "runs on", "MiB", "written", "how", "open", "guest runs", "first page"
    );
    let kvm = ringmark_kvm::System::open();
    for (name, hypervisor) in [("kvm", HypervisorWish::Kvm), ("engine", HypervisorWish::Engine)] {
        let asked: Vec<_> =
            std::env::args().filter(|arg| ["kvm", "engine"].contains(&arg.as_str())).collect();
        if !asked.is_empty() && !asked.iter().any(|arg| arg == name) {
            continue;
        }
        if let (HypervisorWish::Kvm, Err(error)) = (hypervisor, &kvm) {
            eprintln!("SKIPPED lazy on /dev/kvm: {error}");
            continue;
        }
        for memory in SIZES {
            let dir = tempfile::tempdir_in(".").expect("a directory beside the build");
            let store = Store::create_or_open(dir.path().join("store")).expect("a store");
            let little = image(&store, memory, hypervisor);
            let line = |id, share, loading| measure(&store, id, loading, hypervisor, (name, memory, share));
            line(little, "little", Loading::Lazy);
            if memory == SIZES[0] {
                line(little, "little", Loading::Eager);
            }
            let all = filled(&store, little, true);
            line(all, "all", Loading::Lazy);
            if memory == SIZES[1] {
                for (id, how) in [(all, "first"), (filled(&store, little, false), "not known")] {
                    let time = through_the_working_set(&store, id, hypervisor);
                    println!("{name:>8} {:>8} working set {how}: 4,000 pages in {time:.0} ms", memory >> 20);
                }
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

/// The same with every page written that the guest does not use, and with or without its working set.
fn filled(store: &Store, id: ImageId, working_set: bool) -> ImageId {
    let image = store.image(id).expect("the image");
    let layout = image.layout().clone();
    let used = std::sync::Mutex::new(DirtyPages::new(layout.slots()));
    let page = usize::try_from(layout.page_size().bytes()).expect("it fits");
    let restored = image.restore(|slot, first, bytes| {
        let mut used = used.lock().expect("no panic");
        used.slot_mut(slot).expect("the slot").insert_range(first..first + (bytes.len() / page) as u64);
        Ok::<_, std::convert::Infallible>(())
    });
    restored.expect("the image's memory");
    let used = used.into_inner().expect("no panic");
    let spec = ImageSpec {
        vm: "lazy".into(),
        parent: Some(id),
        layout: layout.clone(),
        created: image.summary().created(),
    };
    let mut writer = store.begin(spec).expect("a writer");
    let mut random = 1_u64;
    let mut bytes = vec![0; page];
    for slot in layout.slots().iter() {
        let own = used.slot(slot.id).expect("the slot");
        // What lies below is the guest's, also where it is zero.
        let end = own.iter().last().map_or(0, |last| last + 1).max(16 << 20 >> layout.page_size().shift());
        for offset in end..slot.npages {
            for word in bytes[..RANDOM].chunks_exact_mut(8) {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&random.to_le_bytes());
            }
            writer.put(slot.id, offset, &bytes).expect("a page");
        }
    }
    let kept = |name: &&str| working_set || *name != WORKING_SET;
    let names: Vec<_> = image.state_names().filter(kept).map(str::to_owned).collect();
    for name in names {
        writer.put_state(&name, &image.state(&name).expect("a part")).expect("a part");
    }
    writer.finish().expect("an image").id
}

fn measure(
    store: &Store,
    id: ImageId,
    loading: Loading,
    hypervisor: HypervisorWish,
    (name, memory, share): (&str, u64, &str),
) {
    let mut times: [Vec<Duration>; 3] = Default::default();
    // Its pages are in the page cache of this host after the first one, which is not counted.
    for round in 0..=ROUNDS {
        // As a new process would: nothing of the index is known.
        let begun = Instant::now();
        let store = Store::open(store.location()).expect("the store");
        let image = store.image(id).expect("the image");
        let open = begun.elapsed();
        let options = RestoreOptions { name: None, hypervisor, tracking: Wish::Auto, audit: None, loading };
        let machine = match Machine::restore(&store, &image, options, Box::new(io::sink())) {
            Ok(machine) => machine,
            Err(error) => return eprintln!("SKIPPED {loading:?}: {error}"),
        };
        machine.resume().expect("a running guest");
        let runs = begun.elapsed();
        let written = machine.pages_written();
        while machine.pages_written() == written {
            std::hint::spin_loop();
        }
        let first = begun.elapsed();
        if round > 0 {
            times.iter_mut().zip([open, runs, first]).for_each(|(times, time)| times.push(time));
        }
    }
    let [open, runs, first] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    let how = if loading == Loading::Lazy { "lazy" } else { "eager" };
    println!("{name:>8} {:>8} {share:>8} {how:>6} {open:>8.2} {runs:>12.2} {first:>12.2}", memory >> 20);
}

/// Milliseconds from the order to restore until the guest has certified as many pages as make it come to most of its own.
fn through_the_working_set(store: &Store, id: ImageId, hypervisor: HypervisorWish) -> f64 {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            let store = Store::open(store.location()).expect("the store");
            let image = store.image(id).expect("the image");
            let loading = Loading::Lazy;
            let options =
                RestoreOptions { name: None, hypervisor, tracking: Wish::Auto, audit: None, loading };
            let machine = Machine::restore(&store, &image, options, Box::new(io::sink())).expect("a machine");
            let target = machine.pages_written().map(|written| written + 4000);
            machine.resume().expect("a running guest");
            while machine.pages_written() < target {
                std::thread::sleep(Duration::from_micros(100));
            }
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
