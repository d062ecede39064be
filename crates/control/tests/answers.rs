//! Machines that answer nonsense, or not to the end: the client says so and does not panic.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use proptest::prelude::*;
use ringmark_control::{CheckpointRequest, Client, ClientError, ConnectError};

/// A client's view of a server that answers every request with `answer` and closes.
fn against<T>(answer: &[u8], ask: impl FnOnce(&Client) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The first connection is the one that only tries the socket.
            drop(listener.accept());
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
        });
        ask(&Client::connect(&path).unwrap())
    })
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn answers_that_are_none() {
    let status = |answer: &[u8]| against(answer, Client::status).unwrap_err();
    assert!(matches!(status(b""), ClientError::Lost { .. }));
    assert!(matches!(status(b"SSH-2.0-x\r\n"), ClientError::Lost { .. }));
    assert!(matches!(status(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), ClientError::Lost { .. }));
    assert!(matches!(status(&ok("[]x")), ClientError::Protocol { .. }));
    // A schema of zero is never valid, and another one is not ours.
    assert!(matches!(status(&ok("{}")), ClientError::Protocol { .. }));
    assert!(matches!(status(&ok(r#"{"schema":2}"#)), ClientError::Protocol { .. }));
    assert!(matches!(
        status(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno"),
        ClientError::Protocol { .. }
    ));
    assert!(matches!(status(&ok(&" ".repeat(2 << 20))), ClientError::Lost { .. }));
}

#[test]
fn a_stream_needs_its_last_line() {
    let take = |answer: &[u8]| against(answer, |c| c.checkpoint(&CheckpointRequest::default(), |_| {}));
    let progress = r#"{"progress":{"phase":"copying","pages":1}}"#;
    assert!(matches!(take(&ok(&format!("{progress}\n"))), Err(ClientError::Lost { .. })));
    assert!(matches!(take(&ok(progress)), Err(ClientError::Lost { .. })));
    assert!(matches!(take(&ok(&"x".repeat(2 << 20))), Err(ClientError::Protocol { .. })));
    assert!(matches!(take(&ok("{\"result\":{}}\n")), Err(ClientError::Protocol { .. })));
    let good = format!("{progress}\n{{\"result\":{{\"schema\":1,\"pages\":3}}}}\n");
    assert_eq!(take(&ok(&good)).unwrap().pages, 3);
}

#[test]
fn nobody_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    assert!(matches!(Client::connect(&path), Err(ConnectError::NoMachine(_))));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::connect(&path), Err(ConnectError::Gone(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_an_error(noise in proptest::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(against(&noise, Client::status).is_err());
        prop_assert!(against(&ok(&String::from_utf8_lossy(&noise)), Client::status).is_err());
    }
}
