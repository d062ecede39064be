//! Memory that is handed over by descriptor: exactly one guest whatever breaks, and nothing is taken for memory that is none.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::at_once;
use common::guest::{Arrivals, Machine, PAGE, PAGES, Running, slots};
use common::proxy::{Break, Way, send};
use common::run::{Outcome, migrate_a};
use ringmark_migrate::receive::{ReceiveError, ReceiveOptions, ReceiveProgress, receive};
use ringmark_migrate::report::{MemoryBy, Status};
use ringmark_migrate::send::{DepartError, Departed, MemoryWish, SendOptions, SourceGuest, depart};
use ringmark_migrate::wire::{Encoding, Message, OfferedSlot, Preamble, Role};
use ringmark_migrate::{Address, Connector, Listener, Offer, Session};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

const PATIENCE: Duration = Duration::from_secs(20);
const CONTROL: u8 = 1;
const BYTES: u64 = PAGES * PAGE as u64;

fn options() -> SendOptions {
    SendOptions {
        memory: MemoryWish::Descriptor,
        // The destination has time for an answer, with other migrations beside it.
        ask_for: Duration::from_secs(2),
        ..SendOptions::default()
    }
}

fn lender(running: &Running) -> Machine {
    let mut machine = Machine::new(running);
    machine.lends = true;
    machine
}

fn one_whole_guest(outcome: &Outcome) {
    assert_eq!(outcome.running.count(), 1, "guests that run");
    match (&outcome.sent, &outcome.received) {
        (_, Ok(arrived)) => {
            let before = arrived.machine.steps();
            while arrived.machine.steps() == before {
                thread::yield_now();
            }
            arrived.machine.check();
        }
        (Err(_), Err(_)) => outcome.source.check(),
        (Ok(_), Err(error)) => panic!("it left and did not arrive: {error}"),
    }
}

#[test]
fn memory_is_handed_over_and_no_page_is_sent() {
    for verify_full in [false, true] {
        let outcome = migrate_a(lender, None, &SendOptions { verify_full, ..options() }, false);
        let report = outcome.sent.as_ref().unwrap();
        assert_eq!((report.status, report.memory), (Status::Completed, MemoryBy::Descriptor));
        assert_eq!(report.verified, if verify_full { "full" } else { "same-memory" });
        assert_eq!((report.ram.transferred, report.ram.normal, report.ram.remaining), (0, 0, 0));
        assert!(report.rounds.is_empty() && report.downtime > 0.0);
        let parts = report.downtime_breakdown;
        let sum = parts.kick + parts.save + parts.source_digest + parts.transfer;
        assert!((sum + parts.digest + parts.load + parts.resume - report.downtime).abs() < 1e-6);
        assert_eq!(outcome.proxy.bytes(2, Way::ToDestination), 0, "there are no streams");
        one_whole_guest(&outcome);
    }
}

#[test]
fn who_wants_a_copy_gets_one() {
    let copy = SendOptions { memory: MemoryWish::Copy, ..options() };
    let outcome = migrate_a(lender, None, &copy, false);
    let report = outcome.sent.as_ref().unwrap();
    assert_eq!((report.memory, report.copied_because.as_deref()), (MemoryBy::Copy, None));
    assert!(report.ram.transferred > 0);
    one_whole_guest(&outcome);
}

/// A machine that lends nothing is copied, unless that is not wanted.
#[test]
fn a_machine_whose_memory_cannot_be_handed_over_says_why() {
    let auto = SendOptions { memory: MemoryWish::Auto, ..options() };
    let outcome = migrate_a(Machine::new, None, &auto, false);
    let report = outcome.sent.as_ref().unwrap();
    assert_eq!((report.memory, report.copied_because.as_deref()), (MemoryBy::Copy, Some("it lends nothing")));
    one_whole_guest(&outcome);

    let outcome = migrate_a(Machine::new, None, &options(), false);
    let departed = outcome.sent.as_ref().unwrap_err();
    assert!(matches!(*departed.error, DepartError::NoMemoryFile(_)), "{departed}");
    assert_eq!(departed.guest, SourceGuest::RunsOn);
    one_whole_guest(&outcome);
}

/// The link is cut before, in and behind every message, and heals or stays cut.
#[test]
fn the_link_is_cut_in_every_message() {
    let whole = migrate_a(lender, None, &options(), false);
    whole.sent.as_ref().unwrap();
    let mut cases = Vec::new();
    for (way, messages) in [(Way::ToDestination, 4), (Way::ToSource, 5)] {
        let mut start = 0;
        let ends = whole.proxy.ends(CONTROL, way);
        assert!(ends.len() >= messages, "{way:?}: {ends:?}");
        for end in ends {
            for heals in [true, false] {
                for after in [start, start + 5, (start + end) / 2, end - 1, end] {
                    cases.push(Break { role: CONTROL, way, after, heals });
                }
            }
            start = end;
        }
    }
    let met = at_once(&cases, |&at| {
        let outcome = migrate_a(lender, Some(at), &options(), false);
        let silent = outcome.sent.as_ref().is_err_and(|departed| departed.guest == SourceGuest::Undecided);
        assert!(!(silent && at.heals), "{at:?}: the destination could be asked");
        if silent {
            assert!(outcome.received.is_ok(), "{at:?}: the person let it run at the destination");
        }
        one_whole_guest(&outcome);
        [outcome.destination_undecided, silent]
    });
    for side in [0, 1] {
        assert!(met.iter().any(|silent| silent[side]), "the undecidable instants were met: {met:?}");
    }
}

/// A memory file that is right in everything.
fn memory(name: &str, bytes: u64, seals: SealFlags) -> OwnedFd {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, bytes).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

/// Descriptors of this process that are of the memory file `name`.
fn descriptors(name: &str) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    // One that another test has closed meanwhile is none of these.
    let targets = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().contains(&format!("memfd:{name} "))).count()
}

fn offer() -> Message {
    let slots = slots();
    Message::Offer(Box::new(Offer {
        session: Session::random().unwrap(),
        name: "toy".into(),
        hypervisor: "thread".into(),
        architecture: "any".into(),
        vcpus: 1,
        page_bytes: PAGE as u64,
        slots: slots
            .iter()
            .map(|slot| OfferedSlot { id: slot.id.raw(), base: slot.base.0, npages: slot.npages })
            .collect(),
        needs: vec![1],
        encodings: vec![Encoding::Raw],
        streams: 1,
        verify_full: false,
        resume: None,
        takes_hashes: false,
        has_memory_file: true,
    }))
}

/// What a destination answers, in the end, to a source that sends `files` with the claim to `bytes` of memory.
fn answer_to(path: &Path, bytes: u64, files: Vec<OwnedFd>) -> Message {
    let mut link = UnixStream::connect(path).unwrap();
    Preamble::ours(Role::Control).send(&mut link).unwrap();
    Preamble::receive(&mut link).unwrap();
    offer().send(&mut link).unwrap();
    assert_eq!(Message::receive(&mut link).unwrap(), Message::WantMemoryFile);
    let mut message = Vec::new();
    Message::MemoryFile { bytes }.send(&mut message).unwrap();
    send(&mut link, &message, &files).unwrap();
    drop(files);
    Message::receive(&mut link).unwrap()
}

/// Lets `source` loose on a destination, which waits on afterwards.
fn turned_away(source: impl FnOnce(&Path)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = Listener::bind(Address::Unix(path.clone()), None, false, PATIENCE).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let receiver = thread::spawn(move || {
        let mut said = Vec::new();
        let mut arrivals = Arrivals { running: Running::default(), refuse: false };
        let options = ReceiveOptions::default();
        let mut watch = |progress: ReceiveProgress<'_>| {
            if let ReceiveProgress::TurnedAway(why) = progress {
                said.push(why.to_owned());
            }
        };
        let ended = receive(listener, &mut arrivals, &options, &stopped, &mut || None, &mut watch);
        assert!(matches!(ended, Err(ReceiveError::Stopped)), "it waits for the next source");
        said
    });
    source(&path);
    stop.store(true, Ordering::SeqCst);
    receiver.join().unwrap()
}

#[test]
fn sources_whose_descriptors_are_no_memory() {
    let shrink = SealFlags::SHRINK;
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(BYTES).unwrap();
    let right = |name| memory(name, BYTES, shrink);
    let read_only = |file: OwnedFd| -> OwnedFd {
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap().into()
    };
    let cases: [(&str, u64, Vec<OwnedFd>, &str); 10] = [
        ("many", BYTES, vec![right("many"), right("many")], "more than one descriptor"),
        ("more", BYTES, (0..8).map(|_| right("more")).collect(), "more than one descriptor"),
        ("small", BYTES, vec![memory("small", BYTES - 4096, shrink)], "bytes where guest memory has"),
        ("large", BYTES, vec![memory("large", BYTES * 2, shrink)], "bytes where guest memory has"),
        ("claim", BYTES * 2, vec![memory("claim", BYTES * 2, shrink)], "a memory file of"),
        ("terabyte", 1 << 40, vec![right("terabyte")], "a memory file of"),
        ("loose", BYTES, vec![memory("loose", BYTES, SealFlags::GROW)], "sealed against shrinking"),
        ("frozen", BYTES, vec![memory("frozen", BYTES, shrink | SealFlags::WRITE)], "sealed against writing"),
        ("reader", BYTES, vec![read_only(right("reader"))], "open for reading and writing"),
        ("disk", BYTES, vec![disk.into()], "memory file"),
    ];
    let said = turned_away(|path| {
        for (name, bytes, files, word) in cases {
            match answer_to(path, bytes, files) {
                Message::Refuse(refusal) => {
                    assert!(refusal.what.contains(word), "{name}: {refusal}");
                    assert!(refusal.advice.unwrap().contains("--memory copy"), "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!(descriptors(name), 0, "{name}: a descriptor was kept");
        }
    });
    assert_eq!(said.len(), 10, "{said:?}");
}

/// What lies between the two sides may forward bytes alone: then pages are sent, and it is said why.
#[test]
fn without_a_descriptor_pages_are_sent() {
    turned_away(|path| match answer_to(path, BYTES, Vec::new()) {
        Message::Accept { maps_memory_file: false, no_memory_file: Some(why), streams: 1.., .. } => {
            assert!(why.contains("no descriptor came"), "{why}");
        }
        other => panic!("{other:?}"),
    });
}

/// A source that sends another message in its place, or none.
#[test]
fn a_memory_file_that_is_due_and_does_not_come() {
    let said = turned_away(|path| {
        for word in [Some(Message::Commit { session: Session::random().unwrap() }), None] {
            let mut link = UnixStream::connect(path).unwrap();
            Preamble::ours(Role::Control).send(&mut link).unwrap();
            Preamble::receive(&mut link).unwrap();
            offer().send(&mut link).unwrap();
            assert_eq!(Message::receive(&mut link).unwrap(), Message::WantMemoryFile);
            if let Some(word) = word {
                let mut message = Vec::new();
                word.send(&mut message).unwrap();
                send(&mut link, &message, &[memory("astray", BYTES, SealFlags::SHRINK)]).unwrap();
                assert!(Message::receive(&mut link).is_err(), "the connection ends");
                assert_eq!(descriptors("astray"), 0, "a descriptor was kept");
            }
        }
    });
    assert!(said[0].contains("`commit` out of turn"), "{said:?}");
}

/// Sends a guest to a destination that answers as `answer` does; the guest runs on and is whole.
fn sent_to(lends: bool, answer: impl Fn(UnixStream) + Send + 'static) -> Departed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
    let to = Connector::new(Address::Unix(path), None, false, Duration::from_secs(2)).unwrap();
    let running = Running::default();
    let mut source = Machine::new(&running);
    source.lends = lends;
    source.start();
    let options = SendOptions { memory: MemoryWish::Auto, ..options() };
    let (mut tracker, cancel) = (source.tracker(), AtomicBool::new(false));
    let sent = depart(&source, &Machine::identity(), &mut tracker, &to, &options, &cancel, &mut |_| {});
    let departed = sent.unwrap_err();
    assert_eq!((departed.guest, running.count()), (SourceGuest::RunsOn, 1), "{departed}");
    source.check();
    departed
}

fn greet(peer: &mut UnixStream) -> Session {
    let theirs = Preamble::receive(peer).unwrap();
    Preamble::ours(theirs.role).send(peer).unwrap();
    match Message::receive(peer).unwrap() {
        Message::Offer(offer) => offer.session,
        other => panic!("{other:?}"),
    }
}

fn accept(token: Session) -> Message {
    Message::Accept {
        encodings: vec![Encoding::Raw],
        streams: 0,
        token,
        resumed: false,
        ends_streams: true,
        keeps: 60,
        seed: None,
        maps_memory_file: true,
        no_memory_file: None,
    }
}

#[test]
fn destinations_that_ask_for_memory_out_of_turn() {
    // None was offered.
    let departed = sent_to(false, |mut peer| {
        greet(&mut peer);
        let _ = Message::WantMemoryFile.send(&mut peer);
    });
    assert!(matches!(*departed.error, DepartError::OutOfTurn("want-memory-file")), "{departed}");
    // Twice.
    let departed = sent_to(true, |mut peer| {
        greet(&mut peer);
        let _ =
            Message::WantMemoryFile.send(&mut peer).and_then(|()| Message::WantMemoryFile.send(&mut peer));
        let _ = Message::receive(&mut peer);
    });
    assert!(matches!(*departed.error, DepartError::OutOfTurn("want-memory-file")), "{departed}");
    // It has mapped what it never had.
    for lends in [false, true] {
        let departed = sent_to(lends, |mut peer| {
            let session = greet(&mut peer);
            let _ = accept(session).send(&mut peer);
        });
        assert!(matches!(*departed.error, DepartError::OutOfTurn("accept")), "{departed}");
    }
}

/// It has the memory, and then says nothing, or something else, or that it failed.
#[test]
fn destinations_that_have_memory_and_do_not_run_the_guest() {
    let answers: [(Option<Message>, &str); 3] = [
        (None, "lost"),
        (Some(Message::Running { resume: 1, since: 0 }), "`running` out of turn"),
        (Some(Message::Failed { reason: "no registers".into() }), "no registers"),
    ];
    for (answer, word) in answers {
        let departed = sent_to(true, move |mut peer| {
            let session = greet(&mut peer);
            Message::WantMemoryFile.send(&mut peer).unwrap();
            assert_eq!(Message::receive(&mut peer).unwrap(), Message::MemoryFile { bytes: BYTES });
            accept(session).send(&mut peer).unwrap();
            let Ok(Message::Prepare { digest: 0, .. }) = Message::receive(&mut peer) else { return };
            if let Some(answer) = &answer {
                let _ = answer.send(&mut peer);
                let _ = Message::receive(&mut peer);
            }
        });
        assert!(departed.to_string().contains(word), "{departed}");
        assert!(departed.resumable.is_none(), "memory that is written on is nothing to go on from");
    }
}
