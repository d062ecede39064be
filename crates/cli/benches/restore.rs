//! From the start of `ringmark restore` to the guest's first instruction: `cargo bench -p ringmark --bench restore`.
//!
//! The guest does nothing but write bytes to its serial port, so its first instruction is what the first byte on the
//! program's standard output shows. Every page of its memory but the first 16 MiB is written, with other contents each.
//! Measured from before the process is made until that byte is read; beside it what a process of this program takes that
//! only prints its version. Then the same with several clones of 256 MiB, until the last of them has written, and what their
//! memory is then: the memory file that they share, what they have written beside it, and everything else in their processes
//! and in the one that loads. `/dev/kvm` of x86-64 alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a bench that cannot be set up ends; kilobytes are few"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::elf::{self, Class, EM_X86_64};
use common::{Home, kvm};
use ringmark_image::{ImageSpec, PageKind, Store};

const SIZES: [u64; 3] = [256, 1024, 4096];
const ROUNDS: usize = 15;
/// What lies below is left as the guest has it.
const OWN: u64 = 16 << 20;
/// Random bytes of each page.
const RANDOM: usize = 256;

fn main() {
    // `cargo test --benches` asks every bench to run nothing.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") || !kvm("the bench `restore`") {
        return;
    }
    let version = median((0..ROUNDS).map(|_| {
        let home = Home::new();
        let begun = Instant::now();
        home.run(&["--version"]).succeeded();
        begun.elapsed()
    }));
    println!("medians of {ROUNDS}; a process that prints its version: {version:.1} ms");
    println!("{:>8} {:>8} {:>20}", "MiB", "how", "first instruction ms");
    let mut smallest = None;
    for memory in SIZES {
        let home = image(memory);
        let times = (0..=ROUNDS).map(|_| first_instruction(&home));
        // The first one finds nothing in the page cache.
        println!("{memory:>8} {:>8} {:>20.1}", "--lazy", median(times.skip(1)));
        smallest.get_or_insert(home);
    }
    let home = smallest.expect("there is a smallest");
    println!(
        "{:>8} {:>8} {:>20} {:>12} {:>12}",
        "clones", "how", "first instruction ms", "memfd MiB", "all MiB"
    );
    for how in ["--lazy", "--eager"] {
        for count in [1, 8] {
            let mut memory = [0; 3];
            let times = (0..ROUNDS / 3).map(|_| {
                let (time, found) = clones(&home, count, how);
                memory = found;
                time
            });
            let time = median(times.collect::<Vec<_>>());
            let [shared, own, rest] = memory.map(|kilobytes| kilobytes as f64 / 1024.0);
            println!("{count:>8} {how:>8} {time:>20.1} {shared:>10.1} {own:>8.1} {rest:>8.1}");
        }
    }
}

/// Milliseconds.
fn median(times: impl IntoIterator<Item = Duration>) -> f64 {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// A store with the image of a machine `vm1` of `memory` MiB.
fn image(memory: u64) -> Home {
    let home = Home::new();
    // 0: mov al, 10; mov dx, 0x3f8; 6: out dx, al; jmp 6
    let code = [0xb0, 10, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xfd];
    let segments = [elf::load(0x20_0000, 4096, &code), elf::pvh_note(0x20_0000, 4)];
    let kernel = home.file("kernel", &elf::image(Class::Elf64, EM_X86_64, &segments));
    let kernel = format!("--kernel={}", kernel.display());
    let memory = format!("--memory={memory}M");
    let mut command = home.command(&["run", "--quiet", &kernel, &memory]);
    command.stderr(Stdio::null());
    let mut machine = Killed(command.spawn().unwrap());
    machine.first_byte();
    let mut out = machine.0.stdout.take().unwrap();
    let sink = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    home.run(&["checkpoint", "vm1"]).succeeded();
    drop(machine);
    sink.join().unwrap().unwrap();
    fill(&home);
    home
}

/// The newest image again, with every page written that the guest leaves alone.
fn fill(home: &Home) {
    let store = Store::open(home.store()).unwrap();
    let image = store.image(store.newest("vm1").unwrap().unwrap().id).unwrap();
    let layout = image.layout().clone();
    let size = layout.page_size();
    let mut page = vec![0; usize::try_from(size.bytes()).unwrap()];
    let (vm, parent, created) = ("vm1".to_owned(), Some(image.id()), image.summary().created());
    let mut writer = store.begin(ImageSpec { vm, parent, layout: layout.clone(), created }).unwrap();
    let mut random = 1_u64;
    for slot in layout.slots().iter() {
        let first = if slot.base.0 == 0 { size.pages_in(OWN) } else { 0 };
        for offset in first..slot.npages {
            assert_eq!(image.page(slot.id, offset, &mut page).unwrap(), PageKind::Zero);
            for word in page[..RANDOM].chunks_exact_mut(8) {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&random.to_le_bytes());
            }
            writer.put(slot.id, offset, &page).unwrap();
        }
    }
    let names: Vec<_> = image.state_names().map(str::to_owned).collect();
    names.iter().for_each(|name| writer.put_state(name, &image.state(name).unwrap()).unwrap());
    writer.finish().unwrap();
}

fn first_instruction(home: &Home) -> Duration {
    let mut command = home.command(&["restore", "vm1", "--lazy", "--quiet"]);
    command.stderr(Stdio::null());
    let begun = Instant::now();
    let mut machine = Killed(command.spawn().unwrap());
    machine.first_byte();
    begun.elapsed()
}

/// Until the last of `count` clones has executed an instruction; then kilobytes of memory.
fn clones(home: &Home, count: usize, how: &str) -> (Duration, [u64; 3]) {
    let mut command = home.command(&["restore", "vm1", how, "--quiet", &format!("--clones={count}")]);
    command.stderr(Stdio::null());
    let begun = Instant::now();
    let mut owner = Killed(command.spawn().unwrap());
    let mut out = BufReader::new(owner.0.stdout.take().unwrap());
    let (mut seen, mut line) = (BTreeSet::new(), String::new());
    while seen.len() < count {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "it ended");
        seen.insert(line.split(" | ").next().unwrap_or_default().to_owned());
    }
    let time = begun.elapsed();
    let sink = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let memory = memory_of(owner.0.id());
    drop(owner);
    sink.join().unwrap().unwrap();
    (time, memory)
}

/// Of process `pid` and its children: the file of shared memory, what was written beside it, and the shares (Pss) of
/// everything else.
fn memory_of(pid: u32) -> [u64; 3] {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let is_memory = |name: &str| name.contains("memfd:ringmark-guest");
    let file = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    let file =
        file.into_iter().find(|path| fs::read_link(path).is_ok_and(|to| is_memory(&to.to_string_lossy())));
    let mut sums = [fs::metadata(file.unwrap()).unwrap().blocks() / 2, 0, 0];
    for pid in children.split_whitespace().map(str::to_owned).chain([pid.to_string()]) {
        let mut counts = false;
        for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
            let kilobytes = |text: &str| text.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            if line.split_whitespace().next().is_some_and(|first| first.contains('-')) {
                counts = is_memory(line);
            } else if let Some(share) = line.strip_prefix("Pss:").filter(|_| !counts) {
                sums[2] += kilobytes(share);
            } else if let Some(own) = line.strip_prefix("Anonymous:").filter(|_| counts) {
                sums[1] += kilobytes(own);
            }
        }
    }
    sums
}

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Killed {
    fn first_byte(&mut self) {
        self.0.stdout.as_mut().unwrap().read_exact(&mut [0]).expect("a byte of the guest");
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
