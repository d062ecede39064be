//! The audit as its users have it: a page that changes behind everybody's back ends a checkpoint, and is named.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::process::Running;
use common::{Home, hypervisors, skipped};
use serde_json::{Value, json};

/// A page that no built-in guest of this size uses.
const PAGE: u64 = 3072;

/// A machine of 16 MiB whose guest writes the lower part of it.
fn machine(home: &Home, hypervisor: &str, more: &[&str]) -> Running {
    let hypervisor = format!("--hypervisor={hypervisor}");
    let args = ["run", "--guest=zipf", "--memory=16M", "--hot=1M", &hypervisor];
    home.machine("vm1", &[&args[..], more].concat())
}

/// Changes a byte of the guest's memory from outside, so that no source can know; false where the host forbids it.
fn tamper(test: &str, machine: &Running, value: u8) -> bool {
    let process = format!("/proc/{}", machine.process().as_raw_nonzero());
    let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
    let memory = maps.lines().find(|line| line.contains("memfd:ringmark-guest")).expect("guest memory");
    let start = u64::from_str_radix(memory.split('-').next().unwrap(), 16).unwrap();
    let page = rustix::param::page_size() as u64;
    let written = File::options()
        .write(true)
        .open(format!("{process}/mem"))
        .and_then(|mem| mem.write_all_at(&[value], start + PAGE * page));
    written.map_err(|error| skipped(test, &error.to_string())).is_ok()
}

fn checkpoint(home: &Home, more: &[&str]) -> Value {
    home.run(&[&["checkpoint", "vm1", "--json"], more].concat()).succeeded().json()
}

/// The checkpoint fails with the code of a failed check, and says which page it was and who ought to have seen it.
fn escapes(home: &Home, more: &[&str]) {
    let done = home.run(&[&["checkpoint", "vm1", "--json"], more].concat());
    done.fails(12, &["page 3072 of memslot 0", "changed and no source reported it", "ought to have seen it"]);
    let error = &done.json()["error"];
    let escape = &error["escapes"][0];
    assert_eq!((&escape["slot"], &escape["page"]), (&json!(0), &json!(PAGE)), "{error}");
    let page = rustix::param::page_size() as u64;
    assert_eq!(escape["address"].as_u64(), escape["gfn"].as_u64().map(|gfn| gfn * page), "{error}");
    assert!(!escape["ought"].as_array().unwrap().is_empty(), "{error}");
}

#[test]
fn an_escape_ends_the_checkpoint_and_is_named() {
    let test = "an_escape_ends_the_checkpoint_and_is_named";
    for hypervisor in hypervisors(test) {
        let home = Home::new();
        let vm1 = machine(&home, hypervisor, &["--audit"]);
        assert_eq!(checkpoint(&home, &[])["audit_baseline"], true);
        let taken = checkpoint(&home, &[]);
        assert_eq!((&taken["escapes"], &taken["audit_percent"]), (&json!(0), &json!(100.0)), "{taken}");
        assert_eq!(taken["audit_bytes"], 16 << 20, "{taken}");
        if !tamper(test, &vm1, 1) {
            return;
        }
        escapes(&home, &[]);
        assert_eq!(checkpoint(&home, &[])["parent"], Value::Null, "only a base is trustworthy now");
        assert_eq!(checkpoint(&home, &[])["escapes"], 0);
    }
}

#[test]
fn a_machine_without_audit_is_audited_on_demand() {
    let test = "a_machine_without_audit_is_audited_on_demand";
    let home = Home::new();
    let vm1 = machine(&home, "engine", &[]);
    assert_eq!(checkpoint(&home, &[])["escapes"], Value::Null);
    let begun = home.run(&["checkpoint", "vm1", "--audit"]).succeeded();
    assert!(begun.stderr.contains("nothing to compare with yet"), "{}", begun.stderr);
    assert_eq!(checkpoint(&home, &[])["escapes"], Value::Null);
    let taken = checkpoint(&home, &["--audit"]);
    assert_eq!((&taken["escapes"], &taken["audit_baseline"]), (&json!(0), &json!(false)), "{taken}");
    assert!(taken["audit_pages"].as_u64().unwrap() > 1000, "{taken}");
    if tamper(test, &vm1, 1) {
        // Not looked for, and not forgotten.
        assert_eq!(checkpoint(&home, &[])["escapes"], Value::Null);
        escapes(&home, &["--audit"]);
    }
}

#[test]
fn a_sample_is_what_it_is_called() {
    let home = Home::new();
    let _vm1 = machine(&home, "engine", &["--audit=5%"]);
    assert_eq!(checkpoint(&home, &[])["audit_baseline"], true);
    for _ in 0..3 {
        let taken = checkpoint(&home, &[]);
        assert_eq!((&taken["escapes"], &taken["audit_percent"]), (&json!(0), &json!(5.0)), "{taken}");
        // Twice a twentieth: what was watched and what is watched next.
        assert!((1..=6 << 20).contains(&taken["audit_bytes"].as_u64().unwrap()), "{taken}");
    }
    for rate in ["--audit=5", "--audit=0%", "--audit=101%", "--audit="] {
        let refused = home.run(&["checkpoint", "vm1", rate]);
        assert_eq!(refused.code, Some(2), "{refused:#?}");
        assert!(refused.stderr.contains("such as 1%"), "{refused:#?}");
    }
}
