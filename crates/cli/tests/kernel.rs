//! A kernel that this repository has never seen, from its first instruction to its second life.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "kernel/counter.rs"]
mod counter;

use common::elf::Class;
use common::process::Running;
use common::{Home, kvm, wait_for};

const COMMAND_LINE: &str = "an answer=42";

/// An image, and the ticks between which it was taken.
struct Taken {
    image: String,
    between: [u64; 2],
}

/// Has another process take a checkpoint of `vm` while it counts.
fn checkpoint(home: &Home, vm: &str, machine: &Running) -> Taken {
    let before = counter::after(machine, 3);
    let taken = home.run(&["checkpoint", vm, "--json"]).succeeded().json();
    assert!(taken["pages"].as_u64().unwrap() > 0, "{taken}");
    // What was printed before the cut is in the pipe by now; one more line, and it is read.
    let after = counter::after(machine, 1);
    Taken { image: taken["image"].as_str().unwrap().to_owned(), between: [before, after] }
}

/// Restores `image` under `name`: the counter goes on where it was at the cut, and every page is as it should be.
fn restore(home: &Home, name: &str, image: &str, tracking: &str, taken: &Taken) -> Running {
    let machine = home.machine(name, &["restore", image, tracking]);
    let first = wait_for("the first tick", || counter::ticks(&machine, 0).first().copied());
    let [before, after] = taken.between;
    assert!(first >= before, "{name} went back: {first:x} after {before:x}");
    assert!(first <= after + counter::STEP, "{name} went ahead: {first:x}, taken before {after:x}");
    // Twice round all pages: each was looked at before and after it was written again.
    counter::after(&machine, 2 * 64 / counter::STEP + 1);
    machine
}

/// Runs, is checkpointed twice, dies, and goes on from the newest image and from the older one.
fn second_life(test: &str, memory: &str, tracking: &str, class: Class, ends: &str) {
    if !kvm(test) {
        return;
    }
    let home = Home::new();
    let kernel = home.file("counter.elf", &counter::image(class));
    let kernel = format!("--kernel={}", kernel.display());
    let (memory, tracking) = (format!("--memory={memory}"), format!("--tracking={tracking}"));
    let cmdline = format!("--cmdline={COMMAND_LINE}");
    let mut vm1 = home.machine("vm1", &["run", &kernel, &memory, "--vcpus=1", &tracking, &cmdline]);
    counter::after(&vm1, 5);
    let hello = &vm1.lines(0)[0];
    assert_eq!(hello, &format!("memory ends at {ends}; told: {COMMAND_LINE}"));

    let older = checkpoint(&home, "vm1", &vm1);
    let newer = checkpoint(&home, "vm1", &vm1);
    counter::after(&vm1, 3);
    vm1.kill();
    counter::ticks(&vm1, 0);
    assert_eq!(home.images("vm1"), [older.image.clone(), newer.image.clone()]);

    let mut vm2 = restore(&home, "vm2", "vm1", &tracking, &newer);
    let vm3 = restore(&home, "vm3", &older.image, &tracking, &older);
    // The restored machine's own image is an increment to the one it came from.
    let third = checkpoint(&home, "vm2", &vm2);
    vm2.kill();
    drop(vm3);
    let _vm4 = restore(&home, "vm4", "vm2", &tracking, &third);
    home.run(&["verify"]).succeeded();
}

const ONE_GIB: &str = "0000000040000000 and 0000000000000000";
const FOUR_GIB: &str = "00000000c0000000 and 0000000140000000";

#[test]
fn one_gib_tracked_by_a_ring() {
    second_life("one_gib_tracked_by_a_ring", "1G", "ring", Class::Elf64, ONE_GIB);
}

#[test]
fn one_gib_tracked_by_a_bitmap() {
    second_life("one_gib_tracked_by_a_bitmap", "1G", "bitmap", Class::Elf32, ONE_GIB);
}

#[test]
fn one_gib_tracked_as_the_host_likes() {
    second_life("one_gib_tracked_as_the_host_likes", "1G", "auto", Class::Elf32, ONE_GIB);
}

#[test]
fn four_gib_around_the_gap_tracked_by_a_ring() {
    second_life("four_gib_around_the_gap_tracked_by_a_ring", "4G", "ring", Class::Elf32, FOUR_GIB);
}

#[test]
fn four_gib_around_the_gap_tracked_by_a_bitmap() {
    second_life("four_gib_around_the_gap_tracked_by_a_bitmap", "4G", "bitmap", Class::Elf64, FOUR_GIB);
}

#[test]
fn four_gib_around_the_gap_tracked_as_the_host_likes() {
    second_life("four_gib_around_the_gap_tracked_as_the_host_likes", "4G", "auto", Class::Elf64, FOUR_GIB);
}

/// Negative control: the kernel notices a single wrong word, in the last page above 4 GiB.
#[test]
fn the_kernel_notices_damage() {
    if !kvm("the_kernel_notices_damage") {
        return;
    }
    let home = Home::new();
    let kernel = home.file("counter.elf", &counter::image(Class::Elf64));
    let kernel = format!("--kernel={}", kernel.display());
    let machine = home.machine("vm1", &["run", &kernel, "--memory=4G", "--cmdline=!"]);
    let bad = wait_for("a complaint", || machine.lines(0).into_iter().find(|line| line.contains("BAD")));
    let found = "BAD 000000013ffff000 should be 000000000000007f is 000000000000007f is 000000013fffefff";
    assert_eq!(bad, found);
}
