//! Migrations over the socket: reported on the way, called off, decided.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{dial, raw, rig};
use ringmark_control::{Client, ClientError, Code, Decision, GuestState, MigrateRequest};

#[test]
fn a_migration_reports_on_its_way() {
    let rig = rig();
    rig.mock.events.store(3, Ordering::SeqCst);
    let client = Client::connect(&rig.path).unwrap();
    let mut rounds = Vec::new();
    let request = MigrateRequest::to("unix:/x");
    let done = client.migrate(&request, |at| rounds.push(at.report.ram.dirty_sync_count)).unwrap();
    assert_eq!(rounds, [1, 2, 3]);
    assert_eq!((done.report.session.as_str(), done.report.downtime), ("unix:/x", 1.5));
    // The names of the last line are QMP's.
    let request = "{\"to\":\"unix:/x\"}";
    let head = format!("POST /v1/migrate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", request.len());
    let answer = raw(&rig.path, (head + request).as_bytes());
    assert!(answer.contains("\"total-time\":") && answer.contains("\"downtime-breakdown\":"), "{answer}");
}

#[test]
fn one_that_is_called_off_says_so_to_whoever_asked_for_it() {
    let rig = rig();
    let client = Client::connect(&rig.path).unwrap();
    let Err(ClientError::Failed(failure)) = client.cancel_migration() else {
        panic!("nothing was under way")
    };
    assert_eq!(failure.code, Code::WrongState);
    rig.mock.gate.shut();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            Client::connect(&rig.path).unwrap().migrate(&MigrateRequest::to("unix:/x"), |_| {}).unwrap_err()
        });
        rig.mock.wait_until_running();
        let Err(ClientError::Failed(failure)) = client.migrate(&MigrateRequest::to("unix:/y"), |_| {}) else {
            panic!("two at a time")
        };
        assert_eq!(failure.code, Code::Busy);
        client.cancel_migration().unwrap();
        let ClientError::Failed(failure) = asked.join().unwrap() else { panic!("the refusal was lost") };
        assert_eq!((failure.code, failure.guest), (Code::Cancelled, GuestState::Running));
    });
    assert_eq!(rig.mock.cancelled.load(Ordering::SeqCst), 1);
}

#[test]
fn a_client_that_goes_away_calls_it_off() {
    let rig = rig();
    rig.mock.gate.shut();
    let mut client = dial(&rig.path);
    let request = "{\"to\":\"unix:/x\"}";
    let head = format!("POST /v1/migrate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", request.len());
    client.write_all((head + request).as_bytes()).unwrap();
    rig.mock.wait_until_running();
    drop(client);
    let begun = Instant::now();
    while rig.mock.cancelled.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the migration goes on for nobody");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_decision_reaches_the_machine() {
    let rig = rig();
    let client = Client::connect(&rig.path).unwrap();
    for decision in [Decision::Run, Decision::Discard] {
        client.decide(decision).unwrap();
        assert_eq!(*rig.mock.decided.lock().unwrap(), Some(decision));
    }
    let answer = raw(&rig.path, b"POST /v1/decide HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400"), "nothing is no decision: {answer}");
}
