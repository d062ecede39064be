//! The backend against a real S3 server, healthy and not.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use ringmark_image::Backend;
use ringmark_object::{Limits, OpenError, open_with};

use crate::common::{Fault, LIMITS, Server, bytes, wait_for};

fn stored(backend: &dyn Backend, key: &str) -> Vec<u8> {
    let len = backend.sizes(&[key.to_owned()]).unwrap()[0].unwrap();
    let mut buf = vec![0; usize::try_from(len).unwrap()];
    backend.open(key).unwrap().read_at(&mut buf, 0).unwrap();
    buf
}

fn upload(backend: &dyn Backend, key: &str, contents: &[u8]) -> std::io::Result<()> {
    let mut upload = backend.upload(key)?;
    // Pieces that are no divisors of a part.
    for piece in contents.chunks(3_000_000) {
        upload.append(piece)?;
    }
    upload.commit()
}

fn keys(backend: &dyn Backend, prefix: &str) -> Vec<String> {
    let mut keys: Vec<String> = backend.list(prefix).unwrap().into_iter().map(|listed| listed.key).collect();
    keys.sort();
    keys
}

#[test]
fn objects_come_and_go() {
    let server = Server::start();
    let backend = server.backend();
    assert_eq!(backend.location(), "s3://bucket/some/prefix");
    assert!(backend.put_if_absent("images/1-a", b"one").unwrap());
    assert!(!backend.put_if_absent("images/1-a", b"two").unwrap());
    assert!(backend.put_if_absent("images/1-a", b"one").unwrap(), "of the same bytes: put already");
    assert!(backend.put_if_absent("marker", b"").unwrap());
    assert!(backend.put_if_absent("images/2-b", b"longer").unwrap());
    assert_eq!(stored(&*backend, "images/1-a"), b"one");
    assert_eq!(keys(&*backend, "images/"), ["images/1-a", "images/2-b"]);
    assert_eq!(keys(&*backend, "packs/"), [""; 0]);
    let wanted = ["images/2-b", "images/none", "marker"].map(ToOwned::to_owned);
    assert_eq!(backend.sizes(&wanted).unwrap(), [Some(6), None, Some(0)]);

    let object = backend.open("images/2-b").unwrap();
    let mut three = [0; 3];
    object.read_at(&mut three, 2).unwrap();
    assert_eq!(&three, b"nge");
    assert_eq!(object.read_at(&mut three, 4).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert!(object.read_at(&mut three, 9).is_err());
    object.read_at(&mut [], 9).unwrap();

    backend.delete("images/2-b").unwrap();
    backend.delete("images/2-b").unwrap();
    assert_eq!(backend.open("images/2-b").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(object.read_at(&mut three, 2).is_err());
    // What a person sees in the bucket.
    assert!(server.bucket().join("some/prefix/images/1-a").is_file());
}

#[test]
fn large_objects_go_up_in_parts() {
    let server = Server::start();
    let backend = server.backend();
    // The server receives slowly enough for parts to pile up, if nobody held them back.
    server.plan.set(|request| match request.target.contains("partNumber=") {
        true => Fault::Slow(Duration::from_millis(30)),
        false => Fault::None,
    });
    for (number, len) in [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 65 << 20].into_iter().enumerate() {
        let contents = bytes(len, number as u64);
        let key = format!("packs/{number}-0");
        upload(&*backend, &key, &contents).unwrap();
        assert!(stored(&*backend, &key) == contents, "{len} bytes");
    }
    assert!((2..=4).contains(&server.most_parts()), "{}", server.most_parts());
    assert_eq!(server.loose_parts(), 0);

    let mut dropped = backend.upload("packs/dropped-0").unwrap();
    dropped.append(&bytes(20 << 20, 7)).unwrap();
    drop(dropped);
    wait_for("the upload to be aborted", || server.loose_parts() == 0);
    assert_eq!(backend.open("packs/dropped-0").unwrap_err().kind(), ErrorKind::NotFound);
}

/// Everything once, with its result checked; the same objects again with the next `turn`.
fn all_of_it(backend: &dyn Backend, turn: usize) {
    let key = |name: &str| format!("packs/{name}-{turn}");
    let (small, large) = (bytes(1000, turn as u64), bytes((8 << 20) + 5000, turn as u64));
    assert!(backend.put_if_absent(&key("small"), &small).unwrap());
    assert!(!backend.put_if_absent(&key("small"), b"other").unwrap());
    upload(backend, &key("large"), &large).unwrap();
    upload(backend, &key("one"), &small).unwrap();
    assert!(stored(backend, &key("large")) == large);
    assert!(stored(backend, &key("one")) == small);
    assert!(stored(backend, &key("small")) == small);
    assert_eq!(keys(backend, "packs/").len(), 3);
    for name in ["small", "large", "one"] {
        backend.delete(&key(name)).unwrap();
    }
    assert_eq!(keys(backend, "packs/").len(), 0);
    let claim = backend.claim("w", b"parent").unwrap();
    claim.confirm().unwrap();
    claim.release().unwrap();
    assert_eq!(backend.claims().unwrap(), []);
}

/// Each kind of fault hits every third request, whichever that is.
#[test]
fn faults_that_pass_are_survived() {
    let server = Server::start();
    let backend = server.backend();
    for (kind, fault) in Fault::EVERY.into_iter().enumerate() {
        // A slow one takes the client's patience each time.
        let every = if matches!(fault, Fault::Slow(_)) { 10 } else { 3 };
        for turn in 0..2 {
            server.plan.set(move |request| match request.number % every == turn {
                true => fault,
                false => Fault::None,
            });
            all_of_it(&*backend, 2 * kind + turn);
        }
    }
    server.plan.clear();
}

#[test]
fn a_service_that_stays_away_is_an_error() {
    let server = Server::start();
    let limits = Limits { retries: Duration::from_millis(300), ..LIMITS };
    let backend = server.backend_within(limits);
    backend.put_if_absent("images/1-a", b"one").unwrap();
    let open = backend.open("images/1-a").unwrap();
    for fault in [Fault::Refuse(503), Fault::CutBefore, Fault::Refuse(403)] {
        server.plan.set(move |_| fault);
        let key = "images/1-a".to_owned();
        let errors = [
            backend.put_if_absent("images/2-b", b"two").unwrap_err(),
            upload(&*backend, "packs/1-0", b"pack").unwrap_err(),
            upload(&*backend, "packs/1-0", &bytes(9 << 20, 0)).unwrap_err(),
            backend.open(&key).unwrap_err(),
            backend.sizes(std::slice::from_ref(&key)).unwrap_err(),
            backend.list("images/").unwrap_err(),
            backend.claims().unwrap_err(),
            backend.claim("w", b"").unwrap_err(),
            backend.delete("images/1-a").unwrap_err(),
            open.read_at(&mut [0; 3], 0).unwrap_err(),
        ];
        if fault == Fault::Refuse(403) {
            assert!(
                errors[..4].iter().all(|error| error.kind() == ErrorKind::PermissionDenied),
                "{errors:#?}"
            );
        }
    }
    server.plan.clear();
    assert_eq!(stored(&*backend, "images/1-a"), b"one");
    assert_eq!(keys(&*backend, "packs/"), [""; 0]);
}

#[test]
fn of_many_writers_one_puts() {
    let server = Server::start();
    let winners: Vec<usize> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let backend = server.backend();
                scope.spawn(move || backend.put_if_absent("images/1-a", &bytes(1000, writer)).unwrap())
            })
            .collect();
        let won = writers.into_iter().enumerate().map(|(number, writer)| (number, writer.join().unwrap()));
        won.filter(|(_, won)| *won).map(|(number, _)| number).collect()
    });
    let [winner] = winners[..] else { panic!("{winners:?}") };
    assert_eq!(stored(&*server.backend(), "images/1-a"), bytes(1000, winner as u64));
}

#[test]
fn claims_hold_while_their_writers_live() {
    let server = Server::start();
    let (ours, theirs) = (server.backend(), server.backend());
    let claim = ours.claim("1f", b"parent").unwrap();
    let seen = |backend: &Arc<dyn Backend>| {
        let claims = backend.claims().unwrap();
        claims.into_iter().map(|claim| (claim.writer, claim.bytes, claim.alive)).collect::<Vec<_>>()
    };
    for backend in [&ours, &theirs] {
        assert_eq!(seen(backend), [("1f".to_owned(), b"parent".to_vec(), true)]);
    }
    claim.confirm().unwrap();
    claim.release().unwrap();
    assert_eq!(seen(&theirs), []);

    // Given up in order: dead at once.
    drop(ours.claim("2f", b"parent").unwrap());
    wait_for("the claim to say so", || seen(&theirs) == [("2f".to_owned(), b"parent".to_vec(), false)]);
    theirs.bury("2f").unwrap();
    assert_eq!(seen(&theirs), []);

    // Nothing that a program of ours wrote: no word of it is believed, and its age decides.
    theirs.put_if_absent("writers/3f", b"\xff{").unwrap();
    assert_eq!(seen(&theirs), [("3f".to_owned(), vec![], true)]);
}

/// A writer whose process was stopped for too long, or cut off: others may have taken it for dead, and it finds out.
#[test]
fn a_lapsed_claim_is_no_claim() {
    let server = Server::start();
    let limits = Limits {
        lease: Duration::from_secs(5),
        retries: Duration::from_millis(100),
        request: Duration::from_secs(2),
    };
    let (ours, theirs) = (server.backend_within(limits), server.backend_within(limits));
    let claim = ours.claim("1f", b"parent").unwrap();
    let mut pack = ours.upload("packs/1f-0").unwrap();
    pack.append(&bytes(17 << 20, 1)).unwrap();
    wait_for("a part to arrive", || server.loose_parts() > 0);
    claim.confirm().unwrap();

    server.plan.set(|request| match request.method == "PUT" && request.target.contains("/writers/1f") {
        true => Fault::Refuse(503),
        false => Fault::None,
    });
    // On a busy host one answer or another comes too late.
    let dead = || {
        let claims = theirs.claims().unwrap_or_default();
        claims.iter().any(|claim| !claim.alive && claim.bytes == b"parent")
    };
    wait_for("the claim to lapse", dead);
    assert_eq!(server.loose_parts(), 0, "the upload of the dead writer is aborted");
    assert!(claim.confirm().is_err());
    server.plan.clear();
    // It may renew its claim again, and stays out all the same.
    assert_eq!(claim.confirm().unwrap_err().kind(), ErrorKind::TimedOut);
    drop(pack);
}

#[test]
fn what_is_no_store() {
    let open = |url: &str, settings: &[(&str, &str)]| {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        open_with(url, settings, LIMITS).map(|backend| backend.location().to_owned())
    };
    for url in [
        "",
        "bucket",
        "ftp://host/x",
        "http://host/x",
        "file:///tmp",
        "memory:///",
        "s3://",
        "s3://b/x?y=z",
        "s3://u:p@b/x",
    ] {
        assert!(matches!(open(url, &[]), Err(OpenError::Url { .. })), "{url}: {:?}", open(url, &[]));
    }
    assert!(matches!(open("az://container/x", &[]), Err(OpenError::Settings { .. })), "no account");
    assert!(matches!(open("s3://b", &[("AWS_ALLOW_HTTP", "perhaps")]), Err(OpenError::Settings { .. })));
    let account = [("AZURE_STORAGE_ACCOUNT_NAME", "account"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")];
    assert_eq!(open("az://container/x/", &account).unwrap(), "az://container/x");
    // Variables of no meaning here are passed over.
    assert_eq!(open("s3://bucket", &[("AWS_PAGER", "less"), ("TIMEOUT", "x")]).unwrap(), "s3://bucket");
    let key =
        r#"{"private_key": "key", "private_key_id": "id", "client_email": "a@b", "disable_oauth": true}"#;
    assert_eq!(open("gs://bucket/x", &[("GOOGLE_SERVICE_ACCOUNT_KEY", key)]).unwrap(), "gs://bucket/x");
}
