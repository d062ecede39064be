//! Several machines from one image: each by itself, one memory, together in their end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::process::Running;
use common::{Home, hypervisors, wait_for};
use ringmark_control::{Client, GuestState, Status};
use ringmark_image::{ImageSpec, PageKind, Store};
use rustix::process::{Pid, Signal, kill_process};

/// An image of a machine `vm1` of `memory`, which is gone; the guest has written to `hot` of it.
fn image(home: &Home, hypervisor: &str, memory: &str, hot: &str) -> String {
    let options = [
        "run".to_owned(),
        "--guest=uniform".into(),
        format!("--memory={memory}"),
        format!("--hot={hot}"),
        format!("--hypervisor={hypervisor}"),
    ];
    let mut machine = home.machine("vm1", &options.each_ref().map(String::as_str));
    home.writes_on("vm1");
    let taken = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
    machine.kill();
    taken["image"].as_str().unwrap().to_owned()
}

/// Waits until the clones answer, and run.
fn running(home: &Home, names: &[&str]) -> Vec<Status> {
    let answer = |name: &str| Client::connect(home.socket(name)).ok().and_then(|client| client.status().ok());
    let answers = |name: &&str| {
        wait_for(&format!("{name} to run"), || {
            answer(name).filter(|status| status.guest == GuestState::Running)
        })
    };
    names.iter().map(answers).collect()
}

#[test]
fn clones_are_machines_of_their_own() {
    for hypervisor in hypervisors("clones_are_machines_of_their_own") {
        for loading in ["--eager", "--lazy"] {
            let home = Home::new();
            let image = image(&home, hypervisor, "32M", "4M");
            let clones = Running::start(home.command(&[
                "restore",
                "vm1",
                "--name=web",
                "--clones=3",
                loading,
                "--json",
            ]));
            let names = ["web-1", "web-2", "web-3"];
            let mut pids: Vec<u32> = running(&home, &names).iter().map(|status| status.pid).collect();
            for name in names {
                home.writes_on(name);
                let taken = home.run(&["checkpoint", name, "--json"]).succeeded().json();
                assert_eq!(taken["parent"], image.as_str(), "{taken}");
            }
            names.iter().for_each(|name| home.is_whole(name));
            // One that ends, however, is alone in it.
            kill_process(Pid::from_raw(pids[1].cast_signed()).unwrap(), Signal::KILL).unwrap();
            Client::connect(home.socket("web-3")).unwrap().stop().unwrap();
            home.writes_on("web-1");
            home.is_whole("web-1");
            kill_process(clones.process(), Signal::TERM).unwrap();
            let done = clones.end();
            let document = done.json();
            assert_eq!((done.code, &document["image"]), (Some(0), &image.as_str().into()), "{done:#?}");
            let ended = document["clones"].as_array().unwrap();
            for (clone, (name, end)) in ended.iter().zip(names.iter().zip(["signal", "", "stopped"])) {
                assert_eq!(clone["name"], *name);
                assert_eq!(clone["pid"], pids.remove(0), "{document}");
                assert_eq!(clone["end"].as_str().unwrap_or_default(), end, "{document}");
            }
            // Each one's image restores to a machine that is whole.
            for name in names {
                let _machine = home.machine("again", &["restore", name]);
                home.is_whole("again");
            }
        }
    }
}

#[test]
fn clones_end_with_who_started_them() {
    for hypervisor in hypervisors("clones_end_with_who_started_them") {
        for signal in [Signal::INT, Signal::KILL] {
            let home = Home::new();
            image(&home, hypervisor, "16M", "1M");
            let clones = Running::start(home.command(&["restore", "vm1", "--clones=2"]));
            running(&home, &["vm1-1", "vm1-2"]);
            kill_process(clones.process(), signal).unwrap();
            let done = clones.end();
            if signal == Signal::INT {
                assert_eq!(done.code, Some(0), "{done:#?}");
                for name in ["vm1-1", "vm1-2"] {
                    assert!(done.stderr.contains(&format!("{name} | ringmark: SIGINT")), "{done:#?}");
                    assert!(!home.socket(name).exists(), "it takes its socket with it");
                }
            }
            wait_for("the end of the clones", || {
                let answers = |name| Client::connect(home.socket(name)).is_ok_and(|c| c.status().is_ok());
                (!answers("vm1-1") && !answers("vm1-2")).then_some(())
            });
        }
    }
}

#[test]
fn a_name_that_is_taken_starts_no_clone() {
    let home = Home::new();
    image(&home, "engine", "16M", "1M");
    let _taken = home.machine("web-2", &["restore", "vm1"]);
    let refused = home.run(&["restore", "vm1", "--name=web", "--clones=3"]);
    refused.fails_with_guest(6, "was not started", &["web-2"]);
    assert!(!home.socket("web-1").exists());
    assert_eq!(home.run(&["restore", "vm1", "--clones=0"]).code, Some(2));
}

/// Kilobytes of the file of shared memory in a process: its share of what is shared with others, and what is its own.
fn memory_of(pid: u32) -> (u64, u64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut sums = (0, 0);
    let mut counts = false;
    for line in maps.lines() {
        if line.split_whitespace().next().is_some_and(|first| first.contains('-')) {
            counts = line.contains("memfd:ringmark-guest");
        } else if counts && let Some((field, rest)) = line.split_once(':') {
            let kilobytes = || rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            match field {
                "Pss" => sums.0 += kilobytes(),
                "Anonymous" => sums.1 += kilobytes(),
                _ => {}
            }
        }
    }
    sums
}

/// Image `id` with every page written that its guest leaves alone.
fn filled(home: &Home, id: &str) {
    const OWN: u64 = 16 << 20;
    let store = Store::open(home.store()).unwrap();
    let image = store.image(id.parse().unwrap()).unwrap();
    let layout = image.layout().clone();
    let size = layout.page_size();
    let mut page = vec![0; usize::try_from(size.bytes()).unwrap()];
    let (vm, parent, created) = (image.summary().vm.clone(), Some(image.id()), image.summary().created());
    let mut writer = store.begin(ImageSpec { vm, parent, layout: layout.clone(), created }).unwrap();
    let slot = layout.slots().iter().next().unwrap();
    for offset in size.pages_in(OWN)..slot.npages {
        if image.page(slot.id, offset, &mut page).unwrap() == PageKind::Zero {
            page[..8].copy_from_slice(&(offset + 1).to_le_bytes());
            writer.put(slot.id, offset, &page).unwrap();
        }
    }
    let names: Vec<_> = image.state_names().map(str::to_owned).collect();
    names.iter().for_each(|name| writer.put_state(name, &image.state(name).unwrap()).unwrap());
    writer.finish().unwrap();
}

/// What nobody writes is in memory once, also after each has read all of it.
#[test]
fn clones_share_what_they_do_not_write() {
    for hypervisor in hypervisors("clones_share_what_they_do_not_write") {
        for loading in ["--eager", "--lazy"] {
            let home = Home::new();
            let id = image(&home, hypervisor, "64M", "1M");
            filled(&home, &id);
            let clones = Running::start(home.command(&["restore", "vm1", "--clones=4", loading]));
            let names = ["vm1-1", "vm1-2", "vm1-3", "vm1-4"];
            let statuses = running(&home, &names);
            // A base reads every page.
            for name in names {
                home.run(&["checkpoint", "--full", name]).succeeded();
            }
            let (mut shares, mut own) = (0, 0);
            for status in &statuses {
                let (share, anonymous) = memory_of(status.pid);
                // The guest writes one of its 64 MiB, and a few pages beside that.
                assert!(anonymous < 4 << 10, "{anonymous} kB are a clone's own");
                (shares, own) = (shares + share, own + anonymous);
            }
            // Where it still has a mapping, the process that brought the memory has a share, too.
            let all = shares + memory_of(clones.process().as_raw_nonzero().get().cast_unsigned()).0;
            let image = 64 << 10;
            assert!(all <= image + own, "{all} kB, of which {own} are their own");
            assert!(all >= image / 4 * 3, "{all} kB: not all of it was read");
            kill_process(clones.process(), Signal::TERM).unwrap();
            clones.end().succeeded();
        }
    }
}
