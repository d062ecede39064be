//! A peer that is none, or that is mad: a clear error in bounded time, and the guest runs on.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::guest::{Arrivals, Machine, Running};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ringmark_migrate::receive::{ReceiveError, ReceiveOptions, ReceiveProgress, receive};
use ringmark_migrate::send::{DepartError, Departed, SendOptions, SourceGuest, depart};
use ringmark_migrate::wire::preamble::Role;
use ringmark_migrate::wire::{Encoding, Message, Preamble, frame};
use ringmark_migrate::{Address, Connector, Listener, Tls, TlsFiles};

const PATIENCE: Duration = Duration::from_millis(500);

/// Sends a guest to `to`, and returns how that failed; the guest runs on and is whole.
fn sent_to(to: &Connector) -> (Departed, Duration) {
    let running = Running::default();
    let source = Machine::new(&running);
    source.start();
    let begun = Instant::now();
    let sent = depart(
        &source,
        &Machine::identity(),
        &mut source.tracker(),
        to,
        &SendOptions::default(),
        &AtomicBool::new(false),
        &mut |_| {},
    );
    let departed = sent.unwrap_err();
    assert_eq!(departed.guest, SourceGuest::RunsOn, "{departed}");
    assert_eq!(running.count(), 1);
    source.check();
    (departed, begun.elapsed())
}

/// A destination that answers a connection as `answer` does.
fn destination(answer: impl Fn(UnixStream) + Send + Sync + 'static) -> (tempfile::TempDir, Connector) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for peer in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || answer(peer));
        }
    });
    (dir, Connector::new(Address::Unix(path), None, false, PATIENCE).unwrap())
}

fn greet(peer: &mut UnixStream) {
    let theirs = Preamble::receive(peer).unwrap();
    Preamble::ours(theirs.role).send(peer).unwrap();
}

#[test]
fn destinations_that_are_none() {
    let nobody = Connector::new(Address::Unix("/nowhere/at/all".into()), None, false, PATIENCE).unwrap();
    assert!(matches!(*sent_to(&nobody).0.error, DepartError::Connect(_)));

    let (_dir, garbage) = destination(|mut peer| drop(peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let (departed, _) = sent_to(&garbage);
    assert!(departed.to_string().contains("no ringmark"), "{departed}");

    let (_dir, later) = destination(|mut peer| {
        let theirs = Preamble::receive(&mut peer).unwrap();
        Preamble { versions: 7..=8, role: theirs.role }.send(&mut peer).unwrap();
    });
    let (departed, _) = sent_to(&later);
    assert!(departed.to_string().contains("versions 7 to 8"), "{departed}");
}

#[test]
fn destinations_that_stall() {
    // Silent from the start, and silent after the greeting.
    let held: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
    let keep = Arc::clone(&held);
    let (_dir, silent) = destination(move |peer| keep.lock().unwrap().push(peer));
    let (departed, took) = sent_to(&silent);
    assert!(departed.to_string().contains("does not answer"), "{departed}");
    assert!(took < Duration::from_secs(30), "bounded: {took:?}");

    let keep = Arc::clone(&held);
    let (_dir, greeted) = destination(move |mut peer| {
        greet(&mut peer);
        keep.lock().unwrap().push(peer);
    });
    assert!(sent_to(&greeted).0.to_string().contains("does not answer"));
}

#[test]
fn destinations_that_are_mad() {
    let (_dir, terabyte) = destination(|mut peer| {
        greet(&mut peer);
        let _ = peer.write_all(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        let _ = peer.read(&mut [0; 64]);
    });
    let (departed, _) = sent_to(&terabyte);
    assert!(departed.to_string().contains("announced 4294967295 bytes"), "{departed}");

    // It takes the offer and says that it was told to run the guest, before it had a page.
    let (_dir, hasty) = destination(|mut peer| {
        greet(&mut peer);
        if Message::receive(&mut peer).is_ok() {
            let _ = Message::Running { resume: 0, since: 0 }.send(&mut peer);
        }
    });
    assert!(matches!(*sent_to(&hasty).0.error, DepartError::OutOfTurn("running")));

    // It acknowledges what it was never sent.
    let (_dir, liar) = destination(|mut peer| {
        let theirs = Preamble::receive(&mut peer).unwrap();
        Preamble::ours(theirs.role).send(&mut peer).unwrap();
        let Ok(first) = Message::receive(&mut peer) else { return };
        match (theirs.role, first) {
            (Role::Control, Message::Offer(offer)) => {
                let accept = Message::Accept {
                    encodings: vec![Encoding::Raw],
                    streams: 1,
                    token: offer.session,
                    resumed: false,
                    ends_streams: false,
                    keeps: 0,
                    seed: None,
                    maps_memory_file: false,
                    no_memory_file: None,
                };
                let _ = accept.send(&mut peer);
                // The stream comes on another connection; this one stays open until the test ends.
                std::mem::forget(peer);
            }
            (Role::Stream, _) => {
                let _ = frame::send(&mut peer, frame::Kind::Acknowledgement, &u64::MAX.to_le_bytes());
                // It takes everything: the source is not to fail for another reason.
                let _ = std::io::copy(&mut peer, &mut std::io::sink());
            }
            _ => {}
        }
    });
    assert!(sent_to(&liar).0.to_string().contains("acknowledged"));
}

/// What a receiver turned away, when `source` was let loose on it; it waits on.
fn turned_away(source: impl FnOnce(&Path)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = Listener::bind(Address::Unix(path.clone()), None, false, PATIENCE).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let receiver = thread::spawn(move || {
        let mut said = Vec::new();
        let received = receive(
            listener,
            &mut Arrivals { running: Running::default(), refuse: false },
            &ReceiveOptions::default(),
            &stopped,
            &mut || None,
            &mut |progress| {
                if let ReceiveProgress::TurnedAway(why) = progress {
                    said.push(why.to_owned());
                }
            },
        );
        assert!(matches!(received, Err(ReceiveError::Stopped)), "it waits for the next source");
        said
    });
    source(&path);
    stop.store(true, Ordering::SeqCst);
    receiver.join().unwrap()
}

fn control(path: &Path) -> UnixStream {
    let mut link = UnixStream::connect(path).unwrap();
    Preamble::ours(Role::Control).send(&mut link).unwrap();
    Preamble::receive(&mut link).unwrap();
    link
}

#[test]
fn sources_that_are_mad() {
    let said = turned_away(|path| {
        UnixStream::connect(path).unwrap().write_all(b"\x16\x03\x01 what is this").unwrap();
        let mut link = control(path);
        link.write_all(&[9; 64]).unwrap();
        let _ = link.read(&mut [0; 64]);
        let mut link = control(path);
        Message::Commit { session: ringmark_migrate::Session::random().unwrap() }.send(&mut link).unwrap();
        let _ = link.read(&mut [0; 64]);
    });
    assert_eq!(said.len(), 2, "a stranger is logged, two sources are turned away: {said:?}");
    assert!(said[1].contains("`commit` out of turn"));
}

#[test]
fn a_source_that_breaks_off_is_followed_by_the_next() {
    let said = turned_away(|path| {
        drop(control(path));
        let to = Connector::new(Address::Unix(path.to_owned()), None, false, PATIENCE).unwrap();
        let running = Running::default();
        let source = Machine::new(&running);
        source.start();
        let cancelled = AtomicBool::new(true);
        let sent = depart(
            &source,
            &Machine::identity(),
            &mut source.tracker(),
            &to,
            &SendOptions::default(),
            &cancelled,
            &mut |_| {},
        );
        assert!(matches!(*sent.unwrap_err().error, DepartError::Cancelled));
        assert_eq!(running.count(), 1);
    });
    assert!(said.last().unwrap().contains("cancelled"), "{said:?}");
}

/// An authority, and the files of somebody it vouches for.
fn certificates(dir: &Path, name: &str, authority: &CertifiedIssuer<'_, KeyPair>, trusted: &str) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let write = |what: &str, text: String| {
        let path = dir.join(format!("{name}-{what}.pem"));
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        authorities: write("authorities", trusted.to_owned()),
        certificate: write("certificate", certificate.pem()),
        key: write("key", key.serialize_pem()),
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[test]
fn only_who_has_the_right_certificate_gets_a_guest_or_gives_one() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (authority("ours"), authority("another"));
    let destination = Tls::load(&certificates(dir.path(), "destination", &ours, &ours.pem())).unwrap();
    let good = Tls::load(&certificates(dir.path(), "good", &ours, &ours.pem())).unwrap();
    let stranger = Tls::load(&certificates(dir.path(), "stranger", &other, &ours.pem())).unwrap();
    let deceived = Tls::load(&certificates(dir.path(), "deceived", &ours, &other.pem())).unwrap();

    let listener =
        Listener::bind("tls:localhost:0".parse().unwrap(), Some(destination), false, Duration::from_secs(10))
            .unwrap();
    let address = listener.address().clone();
    let running = Running::default();
    let arriving = running.clone();
    let receiver = thread::spawn(move || {
        receive(
            listener,
            &mut Arrivals { running: arriving, refuse: false },
            &ReceiveOptions::default(),
            &AtomicBool::new(false),
            &mut || None,
            &mut |_| {},
        )
    });
    for wrong in [stranger, deceived] {
        let to = Connector::new(address.clone(), Some(wrong), false, Duration::from_secs(10)).unwrap();
        let (departed, _) = sent_to(&to);
        let said = departed.to_string();
        assert!(said.contains("ertificate") || said.contains("UnknownCA"), "{said}");
    }
    let source = Machine::new(&running);
    source.start();
    let to = Connector::new(address, Some(good), false, Duration::from_secs(10)).unwrap();
    depart(
        &source,
        &Machine::identity(),
        &mut source.tracker(),
        &to,
        &SendOptions { streams: 2, ..SendOptions::default() },
        &AtomicBool::new(false),
        &mut |_| {},
    )
    .unwrap();
    let arrived = receiver.join().unwrap().unwrap();
    assert_eq!(running.count(), 1);
    arrived.machine.check();

    let plain: Address = "tcp:192.0.2.1:9".parse().unwrap();
    let refused = Connector::new(plain.clone(), None, false, PATIENCE).unwrap_err();
    assert!(refused.to_string().contains("in the clear"), "{refused}");
    assert!(Listener::bind(plain, None, false, PATIENCE).unwrap_err().to_string().contains("in the clear"));
}
