//! `ringmark demo`: the whole way, from a vCPU's store to a verified restore, with real processes and a real kill.

mod child;
mod report;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ringmark_control::{CheckOutcome, CheckpointRequest, Status};
use tempfile::TempDir;

use crate::args::{DemoArgs, Hypervisor, Tracking};
use crate::failure::{Code, Failure, OrFail, Result};
use child::Child;
use report::{Report, Restored};

/// vCPUs of the guest.
const VCPUS: u32 = 2;
/// How long the guest writes between two checkpoints, and after a restore before it checks itself.
const WRITING: Duration = Duration::from_millis(300);

/// Runs the demonstration.
pub(crate) fn run(args: &DemoArgs, as_json: bool, quiet: bool) -> Result {
    let quiet = quiet || as_json;
    let home = tempfile::Builder::new().prefix("ringmark-demo").tempdir().or_fail(Code::Failed)?;
    let stage = Stage { store: args.keep.clone().unwrap_or_else(|| home.path().join("store")), home, quiet };

    let (status, checkpoints) = stage.checkpoints(args)?;
    let last = checkpoints.len() - 1;
    let restored = [last, last / 2]
        .into_iter()
        .map(|at| stage.restore(args, &checkpoints[at].image))
        .collect::<Result<Vec<_>>>()?;

    let report = Report::new(&status, checkpoints, restored);
    report.print(as_json);
    if report.ok {
        stage.say(&format!("all of it is in order{}", stage.kept(args.keep.as_deref())));
        return Ok(());
    }
    Err(Failure::new(Code::CheckFailed, "a check failed; see the table")
        .advice("run `ringmark doctor`, and report what it and `ringmark demo --json` print")
        .documented())
}

/// Where a demonstration takes place.
struct Stage {
    home: TempDir,
    store: PathBuf,
    quiet: bool,
}

impl Stage {
    fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("demo: {text}");
        }
    }

    fn kept(&self, keep: Option<&Path>) -> String {
        keep.map_or(String::new(), |_| format!("; the images are in {}", self.store.display()))
    }

    /// A machine in a process of its own, checkpointed while its guest writes, then killed.
    fn checkpoints(&self, args: &DemoArgs) -> Result<(Status, Vec<ringmark_control::Checkpoint>)> {
        let options = [
            "run".to_owned(),
            "--guest=uniform".to_owned(),
            format!("--vcpus={VCPUS}"),
            format!("--memory={}", args.memory.0),
            format!("--hot={}", args.hot.0),
        ];
        let machine = self.start("demo", args, &options)?;
        let status = machine.status()?;
        self.say(&format!(
            "a guest of {VCPUS} vCPUs and {} writes {} of it without end, on {}: {}",
            args.memory,
            args.hot,
            status.hypervisor,
            why(args.hypervisor),
        ));
        self.say(&format!("its writes are tracked by {}: {}", status.tracking, status.tracking_why));
        let mut taken = Vec::new();
        for number in 1..=args.checkpoints {
            thread::sleep(WRITING);
            let checkpoint = machine.checkpoint(&CheckpointRequest::default(), self.quiet)?;
            self.say(&format!(
                "checkpoint {number}: {} pages, the guest stood still for {:.2} ms",
                checkpoint.pages, checkpoint.pause_ms
            ));
            taken.push(checkpoint);
        }
        thread::sleep(WRITING);
        self.say("killing the machine without warning");
        machine.kill()?;
        Ok((status, taken))
    }

    /// An image restored into a new process, where the guest writes on and then checks every page it ever certified.
    fn restore(&self, args: &DemoArgs, image: &str) -> Result<Restored> {
        self.say(&format!("restoring image {} in a new process", super::checkpoint::short(image)));
        let name = format!("restored-{}", super::checkpoint::short(image));
        let machine = self.start(&name, args, &["restore".to_owned(), image.to_owned()])?;
        let before = machine.status()?.guest_pages_written.unwrap_or_default();
        thread::sleep(WRITING);
        let check = machine.check()?;
        let after = machine.status()?.guest_pages_written.unwrap_or_default();
        self.say(&format!("the guest checked itself: {}", check.guest_detail));
        machine.stop()?;
        // A guest that does not write on is not restored, however well it checks itself.
        let went_on = after > before;
        Ok(Restored {
            image: image.to_owned(),
            guest_check: if went_on { check.guest_check } else { CheckOutcome::Failed },
            memory_check: check.memory_check,
            went_on,
        })
    }

    fn start(&self, name: &str, args: &DemoArgs, options: &[String]) -> Result<Child> {
        let mut all = options.to_vec();
        all.extend([
            format!("--name={name}"),
            format!("--store={}", self.store.display()),
            format!("--hypervisor={}", choice(args.hypervisor)),
            format!("--tracking={}", tracking(args.tracking)),
            "--audit".to_owned(),
            "--quiet".to_owned(),
            "--die-with-parent".to_owned(),
        ]);
        Child::start(self.home.path(), name, &all)
    }
}

fn choice(hypervisor: Hypervisor) -> &'static str {
    match hypervisor {
        Hypervisor::Auto => "auto",
        Hypervisor::Kvm => "kvm",
        Hypervisor::Engine => "engine",
    }
}

fn tracking(tracking: Tracking) -> &'static str {
    match tracking {
        Tracking::Auto => "auto",
        Tracking::Ring => "ring",
        Tracking::Bitmap => "bitmap",
    }
}

fn why(hypervisor: Hypervisor) -> String {
    match (hypervisor, ringmark_kvm::System::open()) {
        (Hypervisor::Auto, Ok(_)) => "this host has a KVM that may be used".into(),
        (Hypervisor::Auto, Err(error)) => error.to_string(),
        _ => "asked for".into(),
    }
}
