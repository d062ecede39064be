//! Several writers on one store.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::common::{Memory, assert_holds, layout, leftovers, noise, spec, take_base};
use ringmark_dirty::SlotId;
use ringmark_image::Store;

#[test]
fn writers_at_once_do_not_harm_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    Store::create_or_open(&path).unwrap();
    let layout = layout(4096, &[(0, 300)]);
    let taken: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4u64)
            .map(|i| {
                let (path, layout) = (&path, &layout);
                scope.spawn(move || {
                    let store = Store::open(path).unwrap();
                    let mut memory = Memory::zero(layout);
                    memory.write(SlotId::new(0, 0), 0, &noise(300 * 4096, i + 1));
                    (0..3)
                        .map(|_| (take_base(&store, layout, &memory).unwrap().id, memory.clone()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        all.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let store = Store::open(&path).unwrap();
    let listing = store.list().unwrap();
    assert_eq!((listing.images.len(), listing.damaged.len()), (12, 0));
    for (id, memory) in &taken {
        assert_holds(&store, *id, memory);
    }
    assert_eq!(leftovers(&store), 0);
}

#[test]
fn a_dropped_writer_takes_only_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let layout = layout(4096, &[(0, 3000)]);
    let memory = noise(3000 * 4096, 2);
    let mut one = store.begin(spec(&layout, None)).unwrap();
    let mut two = store.begin(spec(&layout, None)).unwrap();
    one.put(SlotId::new(0, 0), 0, &memory).unwrap();
    two.put(SlotId::new(0, 0), 0, &memory).unwrap();
    two.put_state("x", b"y").unwrap();
    drop(two);
    let id = one.finish().unwrap().id;
    assert_eq!(leftovers(&store), 0);
    store.image(id).unwrap().verify(true).unwrap();
}

#[test]
#[ignore = "started by another test, in a process of its own"]
fn idle_child() {
    let store = Store::open(std::env::var("RINGMARK_TEST_STORE").unwrap()).unwrap();
    let mut writer = store.begin(spec(&layout(4096, &[(0, 10)]), None)).unwrap();
    writer.put(SlotId::new(0, 0), 0, &noise(4096, 1)).unwrap();
    println!("\nwriting");
    std::thread::park();
}

#[test]
fn only_the_dead_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writers::idle_child", "--ignored", "--nocapture"])
        .env("RINGMARK_TEST_STORE", store.location())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap() == "writing"));
    let layout = layout(4096, &[(0, 10)]);
    let ours = store.begin(spec(&layout, None)).unwrap();
    assert_eq!(leftovers(&store), 2, "a living writer of another process was swept");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(leftovers(&store), 2);
    let more = store.begin(spec(&layout, None)).unwrap();
    assert_eq!(leftovers(&store), 2, "the dead one goes, the living one of this process stays");
    drop((ours, more));
    assert_eq!(leftovers(&store), 0);
    // Somebody else's: not touched.
    let packs = std::path::Path::new(store.location()).join("packs");
    std::fs::write(packs.join("notes"), "mine").unwrap();
    std::fs::write(packs.join("0123456789abcdef-0"), "a killed writer's").unwrap();
    std::fs::write(packs.join("0123456789abcdef-1.part"), "half of one").unwrap();
    store.sweep().unwrap();
    let left: Vec<_> = std::fs::read_dir(packs).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["notes"]);
}
