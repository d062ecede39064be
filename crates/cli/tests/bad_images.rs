//! Images that are not what they were, and stores that are none: each gets one clear error, and nothing is changed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::images::base_and_increment;
use common::{Home, hypervisors};

const NOT_STARTED: &str = "not started";
/// Where the files of an image are.
const FILES: [&str; 2] = ["images", "packs"];

/// `id` is neither verified nor restored, and so is what stands on it.
fn refused(home: &Home, id: &str, words: &[&str]) {
    home.run(&["verify", "--deep", id]).fails(3, words);
    let done = home.run(&["restore", id, "--name=vm2"]);
    done.fails_with_guest(3, NOT_STARTED, words);
    assert!(!home.socket("vm2").exists(), "no machine, no socket");
}

/// `id` is what it was: it is verified, restored, and writes on.
fn whole(home: &Home, id: &str) {
    home.run(&["verify", "--deep", id]).succeeded();
    let _machine = home.machine("vm3", &["restore", id]);
    home.is_whole("vm3");
}

#[test]
fn truncated_files() {
    for file in FILES {
        let (home, [base, increment]) = base_and_increment("engine");
        home.truncate(&increment, file);
        refused(&home, &increment, &[file]);
        home.run(&["verify"]).fails(3, &[&increment[..12]]);
        whole(&home, &base);
    }
}

#[test]
fn flipped_bits() {
    for file in FILES {
        let (home, [base, increment]) = base_and_increment("engine");
        home.flip(&increment, file);
        refused(&home, &increment, &[file, "damaged"]);
        whole(&home, &base);
        home.flip(&increment, file);
        whole(&home, &increment);
        // An increment is no better than the packs that it shares; a restore of it reads only what it needs of them. Of
        // its parent's metadata it needs nothing.
        home.flip(&base, file);
        refused(&home, &base, &[file]);
        match file {
            "packs" => home.run(&["verify", "--deep", &increment]).fails(3, &[file]),
            _ => whole(&home, &increment),
        };
    }
}

#[test]
fn empty_files() {
    for file in FILES {
        let (home, [base, increment]) = base_and_increment("engine");
        home.file("empty", b"");
        fs::write(home.image_file(&increment, file), b"").unwrap();
        refused(&home, &increment, &[file]);
        whole(&home, &base);
    }
}

#[test]
fn foreign_files() {
    let (home, [base, increment]) = base_and_increment("engine");
    // Among the images: named, and in nobody's way.
    let stranger = home.store().join("images").join("holiday.jpg");
    fs::write(&stranger, "not an image").unwrap();
    let listed = home.run(&["images"]);
    listed.fails(3, &["holiday.jpg"]);
    assert!(listed.stdout.contains(&base[..12]) && listed.stdout.contains(&increment[..12]), "{listed:#?}");
    home.run(&["verify"]).fails(3, &["holiday.jpg"]);
    whole(&home, &increment);
    fs::remove_file(stranger).unwrap();

    // Under an image's name.
    let id = "ab".repeat(32);
    let file = home.store().join("images").join(format!("{:016x}-{id}", 9));
    fs::write(&file, vec![7; 4096]).unwrap();
    refused(&home, &id, &["images"]);
    home.run(&["images"]).fails(3, &[&id]);
    fs::remove_file(file).unwrap();

    // In the place of an image's file.
    for file in FILES {
        let path = home.image_file(&increment, file);
        let own = fs::read(&path).unwrap();
        fs::write(&path, vec![7; own.len()]).unwrap();
        refused(&home, &increment, &[file]);
        fs::write(&path, own).unwrap();
    }
    whole(&home, &increment);
}

#[test]
fn a_missing_layer() {
    let (home, [base, increment]) = base_and_increment("engine");
    let away = home.dir().join("away");
    let place = home.image_file(&base, "packs");
    fs::rename(&place, &away).unwrap();
    let words = [&increment[..12], place.file_name().unwrap().to_str().unwrap(), "missing"];
    home.run(&["verify", &increment]).fails(4, &words);
    home.run(&["verify"]).fails(4, &words);
    home.run(&["restore", &increment]).fails_with_guest(4, NOT_STARTED, &words);
    home.run(&["restore", "vm1"]).fails_with_guest(4, NOT_STARTED, &words);
    // Put back, as the message says, it is all there again.
    fs::rename(&away, &place).unwrap();
    whole(&home, &increment);
}

#[test]
fn images_that_are_not_there() {
    let (home, [base, _]) = base_and_increment("engine");
    for name in ["vm9", "0123456789ab", "Not An Image", ""] {
        home.run(&["restore", name]).fails_with_guest(10, NOT_STARTED, &[name, "ringmark images"]);
        home.run(&["verify", name]).fails(10, &[name, "ringmark images"]);
    }
    // An identity may be cut short as long as it is one's alone.
    whole(&home, &base[..12]);
    let none = home.run(&["images", "vm9", "--json"]).succeeded().json();
    assert_eq!(none["images"].as_array().unwrap().len(), 0);
}

#[test]
fn stores_that_are_none() {
    let home = Home::new();
    for command in ["images", "verify"] {
        home.run(&[command]).fails(10, &["no image store", "store"]);
    }
    home.run(&["restore", "vm1"]).fails_with_guest(10, NOT_STARTED, &["no image store"]);

    fs::create_dir(home.store()).unwrap();
    home.run(&["images"]).fails(10, &["empty directory"]);

    let thesis = home.store().join("thesis.txt");
    fs::write(&thesis, "years of work").unwrap();
    let run = ["run", "--guest=uniform", "--memory=16M", "--hypervisor=engine"];
    for command in [&["images"][..], &["verify"], &["restore", "vm1"], &run] {
        home.run(command).fails(8, &["thesis.txt", "not an image store"]);
    }
    home.run(&run).fails_with_guest(8, NOT_STARTED, &[]);
    home.run(&["restore", "vm1"]).fails_with_guest(8, NOT_STARTED, &[]);
    assert_eq!(fs::read_dir(home.store()).unwrap().count(), 1, "nothing was added");
    assert_eq!(fs::read(&thesis).unwrap(), b"years of work");

    // A file, and a store of a later version.
    let file = home.file("file", b"");
    home.run(&["images", "--store", file.to_str().unwrap()]).fails(8, &["not a directory"]);
    let later = Home::new();
    fs::create_dir(later.store()).unwrap();
    fs::write(later.store().join("ringmark-store"), "ringmark image store, format version 2\n").unwrap();
    later.run(&["images"]).fails(8, &["format version 2", "version 1"]);
    later.run(&run).fails_with_guest(8, NOT_STARTED, &["format version 2"]);
}

#[test]
fn an_image_of_another_hypervisor() {
    let hypervisors = hypervisors("an_image_of_another_hypervisor");
    let (home, [_, increment]) = base_and_increment("engine");
    if hypervisors.contains(&"kvm") {
        let done = home.run(&["restore", &increment, "--hypervisor=kvm"]);
        done.fails_with_guest(5, NOT_STARTED, &["engine", "kvm", "--hypervisor engine"]);
        let (home, [_, increment]) = base_and_increment("kvm");
        let done = home.run(&["restore", &increment, "--hypervisor=engine"]);
        done.fails_with_guest(5, NOT_STARTED, &["engine", "kvm", "--hypervisor kvm"]);
        whole(&home, &increment);
    }
    // Left to choose, the program takes what the image needs.
    whole(&home, &increment);
}

#[test]
fn ring_sizes_at_a_restore() {
    let (home, [_, increment]) = base_and_increment("engine");
    let done = home.run(&["restore", &increment, "--ring-size=5000"]);
    done.fails_with_guest(11, NOT_STARTED, &["5000", "power of two"]);
    whole(&home, &increment);
}
