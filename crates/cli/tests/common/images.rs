//! Stores with images in them, ways to harm them, and guests that are whole.

use std::fs;
use std::path::PathBuf;

use ringmark_control::{CheckOutcome, Client, GuestState};
use ringmark_image::Store;

use super::{Home, wait_for};

/// A place whose store holds a base and an increment of `vm1`, which was killed.
pub(crate) fn base_and_increment(hypervisor: &str) -> (Home, [String; 2]) {
    let home = Home::new();
    let mut machine = home.small_machine(hypervisor);
    let images = [(); 2].map(|()| {
        let taken = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
        taken["image"].as_str().unwrap().to_owned()
    });
    machine.kill();
    (home, images)
}

impl Home {
    /// The file of image `id` in the directory `of`, `images` or `packs`; the image is whole.
    pub(crate) fn image_file(&self, id: &str, of: &str) -> PathBuf {
        let dir = self.store().join(of);
        let name = if of == "images" {
            let names = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            names.into_iter().find(|name| name.ends_with(id)).unwrap()
        } else {
            let image = Store::open(self.store()).unwrap().image(id.parse().unwrap()).unwrap();
            image.summary().packs.iter().find(|pack| pack.own).unwrap().name.clone()
        };
        dir.join(name)
    }

    /// Flips the lowest bit of one byte of a file of image `id`, somewhere in its middle.
    pub(crate) fn flip(&self, id: &str, name: &str) {
        let path = self.image_file(id, name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }

    /// Cuts the last byte off a file of image `id`.
    pub(crate) fn truncate(&self, id: &str, name: &str) {
        let path = self.image_file(id, name);
        let length = fs::metadata(&path).unwrap().len();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    }

    /// Waits until the guest of `vm` has written more pages than when this was called.
    pub(crate) fn writes_on(&self, vm: &str) {
        let client = Client::connect(self.socket(vm)).unwrap();
        let written = || {
            let status = client.status().unwrap();
            assert_eq!(status.guest, GuestState::Running);
            status.guest_pages_written.unwrap()
        };
        let before = written();
        wait_for("the guest to write on", || Some(written()).filter(|now| *now > before));
    }

    /// The guest of `vm` writes on, then checks every page it ever certified, and the monitor does.
    pub(crate) fn is_whole(&self, vm: &str) {
        self.writes_on(vm);
        let check = Client::connect(self.socket(vm)).unwrap().check().unwrap();
        let outcome = (check.guest_check, check.memory_check);
        assert_eq!(outcome, (CheckOutcome::Ok, CheckOutcome::Ok), "{check:?}");
    }

    /// Writers of the store that have not finished, and what others have left.
    pub(crate) fn leftovers(&self) -> usize {
        let listing = Store::open(self.store()).unwrap().list().unwrap();
        let used = |name: &str| listing.images.iter().any(|i| i.packs.iter().any(|p| p.name == name));
        let names = |of: &str| -> Vec<String> {
            let entries = fs::read_dir(self.store().join(of)).unwrap();
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        };
        names("writers").len() + names("packs").iter().filter(|name| !used(name)).count()
    }
}
