//! Disks that fill up in the middle of an image.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Memory, assert_holds, layout, leftovers, noise, spec, take_base};
use ringmark_dirty::SlotId;
use ringmark_image::{ImageSpec, Layout, Store, WriteError};

const MIB: usize = 1 << 20;

fn shape() -> Layout {
    layout(4096, &[(0, 2048)])
}

/// A small memory, then one that does not fit, then a small one again.
fn fill_and_go_on(store: &Store) {
    let slot = SlotId::new(0, 0);
    let mut memory = Memory::zero(&shape());
    memory.write(slot, 5, &noise(4096 * 10, 1));
    let base = take_base(store, &shape(), &memory).unwrap().id;

    let increment = || -> ImageSpec { spec(&shape(), Some(base)) };
    let mut writer = store.begin(increment()).unwrap();
    let big = noise(8 * MIB, 2);
    let mut put =
        || big.chunks(MIB / 4).zip(0u64..).try_for_each(|(chunk, i)| writer.put(slot, i * 64, chunk));
    let error = put().and_then(|()| writer.finish()).expect_err("eight megabytes went into less");
    assert!(matches!(&error, WriteError::Full { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("the store is unchanged") && text.contains("free space"), "{text}");
    assert_eq!(store.list().unwrap().images.len(), 1);
    assert_eq!(leftovers(store), 0);
    assert_holds(store, base, &memory);

    // What was put is still the caller's, and goes into the next image when there is room: here, less of it.
    let mut writer = store.begin(increment()).unwrap();
    writer.put(slot, 0, &big[..MIB / 4]).unwrap();
    memory.write(slot, 0, &big[..MIB / 4]);
    let next = writer.finish().unwrap().id;
    assert_holds(store, next, &memory);
}

struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(at).output().ok()?;
        mounted.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_file_system_fails_the_image_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(&dir.path().join("disk")) else {
        eprintln!("SKIPPED a_full_file_system_fails_the_image_and_nothing_else: no right to mount a tmpfs");
        return;
    };
    fill_and_go_on(&Store::create_or_open(disk.0.join("store")).unwrap());
}

#[test]
#[ignore = "started by another test, in a process with a file-size limit"]
fn limited_child() {
    fill_and_go_on(&Store::create_or_open(std::env::var("RINGMARK_TEST_STORE").unwrap()).unwrap());
}

/// Needs no rights. The shell ignores SIGXFSZ, which the child inherits, so that a write past the limit is an error.
#[test]
fn a_file_size_limit_fails_the_image_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" --exact full_disk::limited_child --ignored"])
        .arg(std::env::current_exe().unwrap())
        .env("RINGMARK_TEST_STORE", dir.path().join("store"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}
