//! A machine moves, and what its translation services know moves with it.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ringmark_machine::{Arrivals, HypervisorWish, Machine};
use ringmark_migrate::Listener;
use ringmark_migrate::receive::{Arrived, ReceiveOptions, receive};
use ringmark_migrate::send::SendOptions;
use ringmark_track::AuditRate;

use crate::common::{checkpoint, let_write, store};
use crate::moving::{arrivals, connector, listener, moved};
use crate::tables::{LIMIT, Subject, on_each};

/// Where the other process takes a machine, and where it sends it.
const THERE: &str = "RINGMARK_TEST_THERE";
const BACK: &str = "RINGMARK_TEST_BACK";
/// Which hypervisor it runs on.
const HYPERVISOR: &str = "RINGMARK_TEST_HYPERVISOR";

/// The tables are written to memory when the vCPUs have stopped: they are in the last set, or the audit says so.
fn audited() -> SendOptions {
    SendOptions { audit: Some(AuditRate::EVERY_PAGE), verify_full: true, ..SendOptions::default() }
}

/// Interrupts arrive, and the guest finds its pages as it wrote them.
fn goes_on(subject: &Subject, hypervisor: HypervisorWish) {
    // On bare metal this raises every event and waits for it.
    let report = subject.machine.check(LIMIT).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((report.guest.damaged, report.memory.damaged), (0, 0), "{report:?}");
    if hypervisor == HypervisorWish::Engine {
        subject.take_every_interrupt();
    }
    subject.take_interrupts(50);
}

/// The next machine at `listener`, unless `stop` is set.
fn taken_at(listener: Listener, hypervisor: HypervisorWish, stop: &AtomicBool) -> Arrived<Machine> {
    let mut arrivals = Arrivals::new(arrivals(hypervisor), || Box::new(io::sink()) as Box<_>);
    let options = ReceiveOptions::default();
    receive(listener, &mut arrivals, &options, stop, &mut || None, &mut |_| {}).unwrap()
}

/// Takes a machine at `there`, lets it take interrupts, and sends it to `back`.
fn be_the_other_process(there: &Path) {
    let back = PathBuf::from(std::env::var(BACK).unwrap());
    let hypervisor = match std::env::var(HYPERVISOR).unwrap().as_str() {
        "engine" => HypervisorWish::Engine,
        _ => HypervisorWish::Kvm,
    };
    let listener = listener(there);
    println!("\nwaiting");
    let arrived = taken_at(listener, hypervisor, &AtomicBool::new(false));
    let subject = Subject::of(arrived.machine, hypervisor);
    goes_on(&subject, hypervisor);
    subject.machine.migrate(&connector(&back), &audited(), &AtomicBool::new(false), &mut |_| {}).unwrap();
}

fn other_process(there: &Path, back: &Path, hypervisor: HypervisorWish) -> Child {
    let name = if hypervisor == HypervisorWish::Engine { "engine" } else { "kvm" };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "migration::interrupts_go_on_in_another_process_and_back", "--nocapture"])
        .envs([(THERE, there), (BACK, back)])
        .env(HYPERVISOR, name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap() == "waiting"), "the other process ended");
    // What else it says must not make it wait.
    thread::spawn(move || lines.for_each(drop));
    child
}

/// As between two programs: nothing but what travels is known on the other side, which is this test in another process.
#[test]
fn interrupts_go_on_in_another_process_and_back() {
    if let Ok(there) = std::env::var(THERE) {
        return be_the_other_process(Path::new(&there));
    }
    on_each("interrupts_go_on_in_another_process_and_back", |hypervisor| {
        let subject = Subject::start(hypervisor);
        subject.take_interrupts(50);
        let [there, back] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let listener = listener(back.path());
        let mut other = other_process(there.path(), back.path(), hypervisor);
        let stop = AtomicBool::new(false);
        let arrived = thread::scope(|scope| {
            let arriving = scope.spawn(|| taken_at(listener, hypervisor, &stop));
            let to = connector(there.path());
            let sent = subject.machine.migrate(&to, &audited(), &AtomicBool::new(false), &mut |_| {});
            if sent.is_err() {
                other.kill().unwrap();
            }
            // It ends once the machine has come back, or because something is wrong.
            let ended = other.wait().unwrap();
            stop.store(true, Ordering::SeqCst);
            assert_eq!(sent.unwrap_or_else(|e| panic!("{e}")).verified, "full");
            assert!(ended.success(), "{ended}");
            arriving.join().unwrap()
        });
        drop(subject);
        let subject = Subject::of(arrived.machine, hypervisor);
        goes_on(&subject, hypervisor);
    });
}

#[test]
fn interrupts_go_on_after_a_move() {
    on_each("interrupts_go_on_after_a_move", |hypervisor| {
        let (_dir, store) = store();
        let mut subject = Subject::start(hypervisor);
        for _ in 0..3 {
            subject.take_interrupts(50);
            let (_, arrived) = moved(&subject.machine, &audited(), hypervisor);
            subject = Subject::of(arrived, hypervisor);
            goes_on(&subject, hypervisor);
        }
        // Reading the tables back has written memory there, and its checkpoints know of it.
        checkpoint(&subject.machine, &store);
        let_write(&subject.machine, 200);
        subject.take_interrupts(50);
        let taken = checkpoint(&subject.machine, &store);
        assert!(taken.by_source.bitmap > 0, "{:?}", taken.by_source);
        assert_eq!(subject.machine.check(LIMIT).unwrap().memory.damaged, 0);
    });
}
