//! Care of the store, from the outside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use common::images::base_and_increment;
use common::process::{Done, Running};
use common::{Home, hypervisors, skipped};
use ringmark_guest::{Config, Load, MAILBOX, inspect};
use serde_json::Value;

/// Guest memory that a debugger has read out of a core file.
struct Read(Vec<u8>);

impl Load for Read {
    type Error = String;

    fn load(&mut self, gpa: u64) -> Result<u64, String> {
        let at = usize::try_from(gpa).unwrap();
        let word = self.0.get(at..at + 8).ok_or_else(|| format!("{gpa:#x} was not read"))?;
        Ok(u64::from_le_bytes(word.try_into().unwrap()))
    }
}

/// The command line was refused, in words with `word` in them.
fn refused(done: &Done, word: &str) {
    assert!(done.code == Some(2) && done.stderr.contains(word), "{done:#?}");
}

/// Runs `gdb` on a core file; `None` if there is none here.
fn gdb(test: &str, core: &std::path::Path, commands: &[String]) -> Option<String> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-core"]).arg(core);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    match gdb.output() {
        Ok(output) => Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
        Err(error) => {
            skipped(test, &format!("gdb: {error}"));
            None
        }
    }
}

#[test]
fn a_debugger_reads_the_guests_certificates() {
    let test = "a_debugger_reads_the_guests_certificates";
    for hypervisor in hypervisors(test) {
        let (home, [_, increment]) = base_and_increment(hypervisor);
        let core = home.dir().join("core");
        let path = core.to_str().unwrap();
        let done = home.run(&["export", &increment, path, "--format=elf", "--json"]).succeeded().json();
        assert_eq!(done["format"], "elf", "{done}");
        let vcpus = if hypervisor == "kvm" { 1 } else { 0 };
        assert_eq!(done["vcpus"], vcpus, "{done}");
        home.run(&["export", &increment, path, "--format=elf"]).fails(2, &["is there already"]);

        let out = home.dir().join("read");
        let dump = format!("dump binary memory {} 0 {:#x}", out.display(), 16 << 20);
        let commands = [dump, format!("x/gx {MAILBOX:#x}"), "info threads".to_owned(), "p/x $pc".to_owned()];
        let Some(said) = gdb(test, &core, &commands) else { return };
        let mut memory = Read(fs::read(&out).unwrap_or_else(|error| panic!("{error}: {said}")));
        let magic = memory.load(MAILBOX).unwrap();
        assert!(said.contains(&format!("{MAILBOX:#x}:\t{magic:#018x}")), "{said}");
        let config = Config::load(&mut memory, MAILBOX).unwrap_or_else(|error| panic!("{error:?}: {said}"));
        let report = inspect(&mut memory, &config).unwrap();
        assert!(report.is_ok() && report.lanes > 0, "{report}: {said}");
        if vcpus > 0 {
            assert!(said.contains("LWP 1") && !said.contains("$1 = 0x0\n"), "{said}");
        }
    }
}

#[test]
fn out_to_a_file_and_in_again() {
    let (home, [base, increment]) = base_and_increment("engine");
    let raw = home.dir().join("raw");
    let done = home.run(&["export", "vm1", raw.to_str().unwrap(), "--json"]).succeeded().json();
    assert_eq!((&done["image"], &done["length"]), (&increment.as_str().into(), &(16 << 20).into()));
    assert_eq!(fs::metadata(&raw).unwrap().len(), 16 << 20);
    let imported = home.run(&["import", raw.to_str().unwrap(), "--name=copy", "--json"]).succeeded().json();
    let imported = imported["image"].as_str().unwrap().to_owned();
    let same = home.run(&["diff", "vm1", "copy", "--json"]).succeeded().json();
    assert_eq!(same["changed_pages"], 0, "{same}");
    let other = home.run(&["diff", &base, &imported, "--json"]).succeeded().json();
    assert_ne!(other["changed_pages"], 0, "{other}");
    home.run(&["restore", "copy"]).fails_with_guest(5, "not started", &["memory alone"]);
    home.run(&["verify", "copy", "--deep"]).succeeded();
    // A core file of memory alone has no threads.
    let core = home.dir().join("core");
    let done =
        home.run(&["export", "copy", core.to_str().unwrap(), "--format=elf", "--json"]).succeeded().json();
    assert_eq!(done["vcpus"], 0, "{done}");

    let third = home.file("odd", &[1; 5000]);
    home.run(&["import", third.to_str().unwrap()]).fails(2, &["whole pages"]);
    home.run(&["import", third.to_str().unwrap(), "--region=0+8K"]).fails(2, &["ends at 0x1388"]);
    refused(&home.run(&["import", third.to_str().unwrap(), "--region=8K"]), "0x100000000+1G");
    home.run(&["import", "/nowhere"]).fails(1, &["/nowhere"]);
    home.run(&["import", third.to_str().unwrap(), "--region=0+4096", "--page-size=4096"]).succeeded();
}

#[test]
fn differences_and_where_they_are() {
    let (home, [base, increment]) = base_and_increment("engine");
    let document = home.run(&["diff", &base, &increment, "--json"]).succeeded().json();
    let runs = document["runs"].as_array().unwrap();
    let pages: u64 = runs.iter().map(|run| run["pages"].as_u64().unwrap()).sum();
    assert_eq!(document["changed_pages"], pages);
    assert_eq!(document["changed_bytes"], pages * document["page_size"].as_u64().unwrap());
    assert!((1..=document["pages"].as_u64().unwrap()).contains(&pages), "{document}");

    let text = home.run(&["diff", &base, &increment, "--heat"]).succeeded().stdout;
    for word in ["pages differ", "memslot", "0x0000000000000000 │", "a cell is"] {
        assert!(text.contains(word), "no `{word}`: {text}");
    }
    assert!(text.lines().filter(|line| line.contains('│')).all(|line| line.chars().count() <= 80), "{text}");
    for (name, begins) in [("heat.png", &b"\x89PNG\r\n\x1a\n"[..]), ("heat.svg", b"<svg")] {
        let file = home.dir().join(name);
        home.run(&["diff", &base, &increment, "--heat", file.to_str().unwrap()]).succeeded();
        assert!(fs::read(&file).unwrap().starts_with(begins), "{name}");
    }
    home.run(&["diff", &base, &increment, "--heat=x.gif"]).fails(2, &[".svg"]);
    home.run(&["diff", &base, "ffff"]).fails(10, &["ffff"]);
}

/// Images by their short names, with whether they are there.
fn listed(home: &Home) -> BTreeMap<String, Value> {
    let images = home.run(&["images", "--json"]).succeeded().json();
    let images = images["images"].as_array().unwrap().clone();
    images.into_iter().map(|image| (image["id"].as_str().unwrap().to_owned(), image)).collect()
}

#[test]
fn parents_are_not_taken_from_their_children() {
    let (home, [base, increment]) = base_and_increment("engine");
    home.run(&["rm", &base[..12]])
        .fails(19, &["nothing was removed", &base[..12], &increment[..12], "--orphan"]);
    assert_eq!(listed(&home).len(), 2);
    let frees = listed(&home)[&increment]["frees"].as_u64().unwrap();
    let flat = home.run(&["flatten", &increment, "--json"]).succeeded().json();
    let flat = flat["image"].as_str().unwrap().to_owned();
    assert_eq!(listed(&home)[&flat]["parent"], Value::Null);
    assert!(home.run(&["images"]).succeeded().stdout.contains(&flat[..12]));

    let removed = home.run(&["rm", "--orphan", &base, "--json"]).succeeded().json();
    assert_eq!(removed["images"], 1, "{removed}");
    home.run(&["verify", "--deep"]).succeeded();
    assert!(home.run(&["images"]).succeeded().stdout.contains(&format!("{}, gone", &base[..12])));
    let removed = home.run(&["rm", &increment, "--json"]).succeeded().json();
    assert!(removed["bytes"].as_u64().unwrap() >= frees, "{removed}");
    assert_eq!(listed(&home).keys().collect::<Vec<_>>(), [&flat]);
    home.run(&["rm", "vm1"]).fails(10, &["no image is called `vm1`"]);
    home.run(&["rm", &base]).fails(10, &[&base]);

    // What is left restores by itself.
    let _machine = home.machine("again", &["restore", "vm1"]);
    home.is_whole("again");
}

#[test]
fn a_policy_decides() {
    let home = Home::new();
    let machine = home.small_machine("engine");
    for _ in 0..4 {
        home.run(&["checkpoint", "vm1"]).succeeded();
    }
    let ids = home.images("vm1");
    let plan = home.run(&["prune", "--keep=last=2", "--dry-run", "--json"]).succeeded().json();
    let keep: Vec<_> = plan["images"].as_array().unwrap().iter().map(|image| image["keep"].clone()).collect();
    assert_eq!(keep, [true, true, false, false].map(Value::from), "newest first: {plan}");
    assert_eq!((&plan["images"][0]["reasons"][0], &plan["removed"]), (&"last".into(), &Value::Null));
    assert_eq!(home.images("vm1"), ids);
    let done = home.run(&["prune", "vm1", "--keep", "last=2", "--json"]).succeeded().json();
    assert_eq!((&done["removed"]["images"], &done["removed"]["bytes"]), (&2.into(), &plan["would_free"]));
    assert_eq!(home.images("vm1"), ids[2..]);
    home.run(&["verify", "--deep"]).succeeded();
    // The machine does not mind: its next image goes on from the newest.
    let taken = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
    assert_eq!(taken["parent"], ids[3].as_str(), "{taken}");
    drop(machine);

    refused(&home.run(&["prune", "--keep=last=0"]), "from 1 on");
    refused(&home.run(&["prune"]), "--keep");
    home.run(&["prune", "nobody", "--keep=last=1"]).fails(10, &["nobody"]);
}

/// Wherever the URL leads, the program says why it went no further.
#[test]
fn stores_that_are_no_directories() {
    let home = Home::new();
    let with = |store: &str| {
        let mut command = home.command(&["images", "--store", store]);
        command.env_remove("AZURE_STORAGE_ACCOUNT_NAME");
        Running::start(command).end()
    };
    with("ftp://host/x").fails(2, &["s3://BUCKET/PREFIX"]);
    with("az://container/x").fails(8, &["environment"]);
    with(&format!("file://{}", home.dir().join("none").display())).fails(10, &["no image store"]);
}
