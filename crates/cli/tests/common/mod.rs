//! The program as its users have it: processes, sockets and stores of their own for every test.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part, and fails by panicking"
)]

pub(crate) mod elf;
pub(crate) mod images;
pub(crate) mod migration;
pub(crate) mod passage;
pub(crate) mod process;
pub(crate) mod small_disk;

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process::{Done, Running};
use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ringmark");

/// The longest that anything here may take: a bound for what hangs, not a measure of anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A place for one test: its sockets and its store, and nothing of the user's.
pub(crate) struct Home {
    dir: TempDir,
    store: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("rmk").permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let store = dir.path().join("store");
        Self { dir, store }
    }

    /// The same with the store elsewhere.
    pub(crate) fn with_store(store: PathBuf) -> Self {
        Self { store, ..Self::new() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.dir().join("ringmark").join(format!("{name}.sock"))
    }

    /// A file of this place.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The program with `args`, in this place.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(PROGRAM), args)
    }

    /// A copy of the program at `program` with `args`, in this place.
    pub(crate) fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("HOME", self.dir())
            .env("XDG_RUNTIME_DIR", self.dir())
            .env("XDG_STATE_HOME", self.dir())
            .env("RINGMARK_STORE", &self.store)
            .env_remove("RINGMARK_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        Running::start(self.command(args)).end()
    }

    /// Starts a machine `name` in the foreground, and waits until its socket answers.
    pub(crate) fn machine(&self, name: &str, args: &[&str]) -> Running {
        let name_option = format!("--name={name}");
        let mut all = args.to_vec();
        all.push(&name_option);
        let mut machine = Running::start(self.command(&all));
        machine.answers_at(&self.socket(name));
        machine
    }

    /// A built-in guest of 16 MiB under the name `vm1`.
    pub(crate) fn small_machine(&self, hypervisor: &str) -> Running {
        let hypervisor = format!("--hypervisor={hypervisor}");
        self.machine("vm1", &["run", "--guest=uniform", "--memory=16M", "--hot=1M", &hypervisor])
    }

    /// The images of the machine `vm`, oldest first.
    pub(crate) fn images(&self, vm: &str) -> Vec<String> {
        let listed = self.run(&["images", "--json", vm]).json();
        let mut ids: Vec<String> = listed["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|image| image["id"].as_str().unwrap().to_owned())
            .collect();
        ids.reverse();
        ids
    }
}

/// Says on the terminal that a test was skipped; the test harness would keep what `eprintln!` prints to itself.
pub(crate) fn skipped(test: &str, reason: &str) {
    // In one piece, between the lines of other tests.
    let line = format!("SKIPPED {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether machines may run on this host's KVM; says so if not.
pub(crate) fn kvm(test: &str) -> bool {
    if !cfg!(target_arch = "x86_64") {
        skipped(test, "machines on KVM are of x86-64 so far");
        return false;
    }
    match ringmark_kvm::System::open() {
        Ok(_) => true,
        Err(error) => {
            skipped(test, &error.to_string());
            false
        }
    }
}

/// The hypervisors of this host; says so if KVM is none of them.
pub(crate) fn hypervisors(test: &str) -> Vec<&'static str> {
    if kvm(&format!("{test} (on KVM)")) { vec!["kvm", "engine"] } else { vec!["engine"] }
}

/// `test` with each of `cases`, on a thread each: for those that mostly wait, until a peer that is gone is given up.
pub(crate) fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    let test = &test;
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || test(case));
        }
    });
}

/// Waits until `what` gives something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
