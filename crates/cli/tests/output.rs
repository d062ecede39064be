//! What goes where: documents and tables to stdout, progress and errors to stderr, and the outcome to the exit code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::images::base_and_increment;
use common::process::{Done, Running};
use common::{Home, PROGRAM, skipped};
use ringmark_control::{CheckpointRequest, Client};
use serde_json::Value;

/// The one line of JSON on stdout, and silence on stderr.
fn document(done: &Done) -> Value {
    assert_eq!(done.stdout.lines().count(), 1, "one document and nothing else: {done:#?}");
    assert_eq!(done.stderr, "", "nothing to say beside it");
    done.json()
}

fn has(document: &Value, fields: &[&str]) {
    for field in fields {
        assert!(document.get(field).is_some(), "no `{field}`: {document}");
    }
}

#[test]
fn documents() {
    let home = Home::new();
    let _machine = home.small_machine("engine");
    let taken = document(&home.run(&["checkpoint", "vm1", "--json"]).succeeded());
    has(
        &taken,
        &[
            "image",
            "parent",
            "pages",
            "by_source",
            "bytes",
            "pause_ms",
            "total_ms",
            "taken_bytes_per_s",
            "stored_bytes_per_s",
            "escapes",
        ],
    );
    assert!(taken["parent"].is_null());
    let second = document(&home.run(&["--json", "checkpoint", "vm1"]).succeeded());
    assert_eq!(second["parent"], taken["image"]);

    let listed = document(&home.run(&["images", "--json"]).succeeded());
    let images = listed["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    has(&images[0], &["id", "vm", "parent", "created_ns", "memory_bytes", "pages", "zero_pages", "bytes"]);
    assert_eq!((&images[0]["id"], &images[1]["id"]), (&second["image"], &taken["image"]), "newest first");
    assert_eq!(images[0]["memory_bytes"], 16 << 20);

    let verified = document(&home.run(&["verify", "--json"]).succeeded());
    assert_eq!((&verified["ok"], &verified["failed"]), (&true.into(), &Value::Array(vec![])));
    has(&verified["images"][0], &["id", "packs", "pages", "bytes_read"]);

    let doctor = home.run(&["doctor", "--json"]);
    let examined = document(&doctor);
    let verdicts = ["good", "caveat", "missing"];
    let verdict = verdicts.iter().position(|verdict| examined["verdict"] == *verdict).unwrap();
    assert_eq!(doctor.code, Some(i32::try_from(verdict).unwrap()), "the exit code is the verdict");
    assert_eq!(examined["schema"], 1);
    for finding in examined["findings"].as_array().unwrap() {
        has(finding, &["what", "found", "verdict"]);
        assert!(finding["verdict"] == "good" || finding.get("remedy").is_some(), "no remedy: {finding}");
    }
}

#[test]
fn a_document_of_torture() {
    let home = Home::new();
    let tortured = ["torture", "--minutes=0.01", "--seed=1", "--hypervisor=engine", "--json"];
    let report = document(&home.run(&tortured).succeeded());
    has(
        &report,
        &["schema", "seed", "hypervisor", "minutes", "iterations", "pages_verified", "faults", "elapsed_ms"],
    );
    assert_eq!((&report["seed"], &report["hypervisor"]), (&1.into(), &"engine".into()));
    assert_eq!(report["escapes"], 0);
    assert!(report["pages_verified"].as_u64() > Some(0) && report["faults"].is_object(), "{report}");
    // For people: the seed first, on stderr, in case they have to repeat it.
    let told = home.run(&["torture", "--minutes=0.001", "--seed=2", "--hypervisor=engine"]).succeeded();
    assert!(told.stderr.contains("seed 2") && told.stdout.contains("0 escapes"), "{told:#?}");
    for wrong in ["0", "-1", "soon", "1e300"] {
        let refused = home.run(&["torture", &format!("--minutes={wrong}")]);
        assert!(refused.code == Some(2) && refused.stderr.contains("--minutes"), "{refused:#?}");
    }
}

#[test]
fn a_document_of_conformance() {
    let home = Home::new();
    for rules in ["x86", "arm64"] {
        let args = ["conformance", "--target=engine", "--rules", rules, "--case=T01", "--json"];
        let report = document(&home.run(&args).succeeded());
        has(&report, &["target", "kernel", "passed", "failed", "skipped", "deviations", "cases"]);
        assert_eq!((&report["passed"], &report["failed"]), (&1.into(), &0.into()), "{report}");
        has(&report["cases"][0], &["id", "name", "result", "detail"]);
    }
    let listed = document(&home.run(&["conformance", "--list", "--json"]).succeeded());
    has(&listed["cases"][0], &["id", "name", "proves", "source", "needs"]);
    home.run(&["conformance", "--case=no such case"]).fails(2, &["--list"]);
    home.run(&["conformance", "--target=kvm", "--rules=x86"]).fails(2, &["--rules"]);
}

#[test]
fn a_failure_is_a_document_too() {
    let done = Home::new().run(&["images", "--json"]);
    done.fails(10, &["no image store"]);
    assert_eq!(done.stdout.lines().count(), 1, "{done:#?}");
    let error = &done.json()["error"];
    assert_eq!(error["code"], "not-found");
    assert!(done.stderr.contains(error["message"].as_str().unwrap()), "the same words for people");

    let (home, [_, increment]) = base_and_increment("engine");
    home.flip(&increment, "packs");
    let done = home.run(&["verify", "--deep", "--json"]);
    done.fails(3, &["packs"]);
    let verified: Value = serde_json::from_str(done.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&verified["schema"], &verified["ok"]), (&1.into(), &false.into()), "{done:#?}");
    assert_eq!(done.stdout.lines().count(), 1, "one document on stdout and no more: {done:#?}");
}

#[test]
fn tables_for_people() {
    let home = Home::new();
    let machine = home.small_machine("engine");
    let taken = home.run(&["checkpoint", "vm1"]).succeeded();
    assert!(taken.stdout.contains("of vm1, a base") && taken.stdout.contains("paused for"), "{taken:#?}");
    let images = home.run(&["images"]).succeeded();
    for word in
        ["image", "machine", "parent", "taken", "memory", "pages", "stored", "vm1", "base", "16.00 MiB"]
    {
        assert!(images.stdout.contains(word), "no `{word}`: {images:#?}");
    }
    let verified = home.run(&["verify", "vm1"]).succeeded();
    for word in ["image", "packs", "result", "ok"] {
        assert!(verified.stdout.contains(word), "no `{word}`: {verified:#?}");
    }
    let doctor = home.run(&["doctor"]);
    for word in [
        "what",
        "found",
        "verdict",
        "host",
        "KVM",
        "userfaultfd",
        "page-map scan",
        "transparent huge pages",
        "swap",
        "limit: open files",
        "limit: mappings",
        "processors",
        "image store",
    ] {
        assert!(doctor.stdout.contains(word), "no `{word}`: {doctor:#?}");
    }
    for done in [taken, images, verified, doctor] {
        assert_eq!(done.stderr, "", "no bars where nobody watches");
    }
    // The foreground says on stderr what it does; stdout is the guest's console.
    assert!(machine.stderr().contains("vm1 runs on engine (asked for)"));
    assert_eq!(machine.lines(0), [""; 0]);
}

/// A terminal sees bars; a file that stdout goes to does not.
#[test]
fn progress_is_for_terminals() {
    let test = "progress_is_for_terminals";
    if Command::new("script").arg("--version").output().is_err() {
        return skipped(test, "`script` of util-linux gives no terminal here");
    }
    let home = Home::new();
    let _machine = home.small_machine("engine");
    let out = home.dir().join("out");
    let terminal = |options: &str| {
        let mut command = home.command_of("script".as_ref(), &["--quiet", "--return", "--command"]);
        command.arg(format!("{PROGRAM} checkpoint vm1 {options} > {}", out.display()));
        command.arg("/dev/null").env("SHELL", "/bin/sh").env("TERM", "xterm");
        let seen = Running::start(command).end().succeeded().stdout;
        (seen, std::fs::read_to_string(&out).unwrap())
    };
    let (seen, written) = terminal("");
    assert!(seen.contains("pages"), "a bar: {seen:?}");
    assert_eq!(written.lines().count(), 1);
    assert!(written.contains("durable after") && !written.contains('\u{1b}'), "{written:?}");
    for silent in ["--quiet", "--json"] {
        let (seen, written) = terminal(silent);
        assert_eq!((seen.as_str(), written.lines().count()), ("", 1), "{silent}");
    }
}

#[test]
fn a_second_checkpoint_is_refused_while_one_is_taken() {
    let home = Home::new();
    let args = ["run", "--guest=uniform", "--memory=256M", "--hot=128M", "--hypervisor=engine"];
    let _machine = home.machine("vm1", &args);
    let client = Client::connect(home.socket("vm1")).unwrap();
    // A base takes longer than a process takes to start; if for once it did not, the next one will.
    for _ in 0..10 {
        let mut second = None;
        let request = CheckpointRequest { full: true, ..Default::default() };
        client
            .checkpoint(&request, |_| {
                second.get_or_insert_with(|| home.run(&["checkpoint", "vm1"]));
            })
            .unwrap();
        let second = second.unwrap();
        if second.code != Some(0) {
            return second.fails_with_guest(13, "runs on", &["already", "wait"]);
        }
    }
    panic!("no second checkpoint met a first");
}

/// The table of exit codes in the help.
fn exit_codes() -> BTreeMap<i32, String> {
    let help = Home::new().run(&["--help"]).succeeded();
    let (_, table) = help.stdout.split_once("Exit codes:\n").unwrap();
    let mut codes = BTreeMap::new();
    for line in table.lines() {
        // Two columns, each of a code and what it means.
        for cell in line.split("  ").map(str::trim).collect::<Vec<_>>().join("\n").split("\n\n") {
            let mut words = cell.split('\n').filter(|word| !word.is_empty());
            while let (Some(code), Some(meaning)) = (words.next(), words.next()) {
                codes.insert(code.parse().unwrap(), meaning.to_owned());
            }
        }
    }
    codes
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let codes = exit_codes();
    let numbers: Vec<i32> = codes.keys().copied().collect();
    assert_eq!(numbers, (0..=19).collect::<Vec<_>>(), "{codes:?}");

    let (home, [base, increment]) = base_and_increment("engine");
    let _taken = home.machine("taken", &["restore", &increment]);
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("x"), "x").unwrap();
    let foreign = foreign.path().to_str().unwrap();
    let kernel = home.file("kernel", b"no ELF");
    let kernel = kernel.to_str().unwrap();
    let means = |args: &[&str], word: &str| {
        let done = home.run(args);
        let meaning = done.code.and_then(|code| codes.get(&code));
        assert!(
            meaning.is_some_and(|meaning| meaning.contains(word)),
            "{args:?} means {meaning:?}: {done:#?}"
        );
    };
    means(&["images"], "done");
    means(&["no-such-command"], "wrong usage");
    means(&["run"], "wrong usage");
    means(&["run", "--guest=uniform", "--name=taken", "--hypervisor=engine"], "the name is taken");
    means(&["run", "--kernel", kernel, "--hypervisor=engine"], "no usable hypervisor");
    means(&["run", "--guest=uniform", "--hypervisor=engine", "--store", foreign], "the store");
    means(&["run", "--kernel=/nowhere", "--hypervisor=engine"], "the kernel file");
    means(&["checkpoint", "vm9"], "no such machine");
    means(&["restore", "vm9"], "or image");
    means(&["run", "--guest=uniform", "--hypervisor=engine", "--ring-size=3"], "tracking is not possible");
    means(&["rm", &base], "children that would stay behind");
    home.truncate(&increment, "packs");
    means(&["verify", &increment], "an image is invalid");
    std::fs::remove_file(home.image_file(&base, "packs")).unwrap();
    means(&["restore", &base], "is missing");
}

#[test]
fn every_command_explains_itself() {
    let home = Home::new();
    let help = home.run(&["--help"]).succeeded();
    let (_, commands) = help.stdout.split_once("Commands:\n").unwrap();
    let names: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected = [
        "demo",
        "run",
        "checkpoint",
        "restore",
        "predict",
        "migrate",
        "receive",
        "images",
        "verify",
        "diff",
        "flatten",
        "prune",
        "rm",
        "export",
        "import",
        "doctor",
        "conformance",
        "torture",
        "help",
    ];
    assert_eq!(names, expected);
    for name in &names[..names.len() - 1] {
        let done = home.run(&[name, "--help"]).succeeded();
        assert!(done.stdout.contains(&format!("Usage: ringmark {name}")), "{done:#?}");
        assert_eq!(done.stderr, "");
        // Every option is explained.
        let described = home.run(&[name, "-h"]).succeeded().stdout;
        for line in described.lines().filter(|line| line.trim_start().starts_with("--")) {
            assert!(line.trim().contains("  ") || line.trim().len() > 24, "{name}: `{line}`");
        }
    }
    let doctor = home.run(&["doctor", "--help"]).succeeded();
    assert!(doctor.stdout.contains("exit code is 0"), "its exit codes are its own: {doctor:#?}");
    let version = home.run(&["--version"]).succeeded();
    assert_eq!(version.stdout.trim(), concat!("ringmark ", env!("CARGO_PKG_VERSION")));
}
