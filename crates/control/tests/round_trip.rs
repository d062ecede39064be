//! Every route, by the client and by hand.

mod common;

use std::sync::atomic::Ordering;

use common::{raw, rig};
use ringmark_control::{CheckOutcome, CheckpointRequest, Client, ClientError, Code, Failure, GuestState};

#[test]
fn status_pause_resume_stop() {
    let rig = rig();
    let client = Client::connect(&rig.path).unwrap();
    let status = client.status().unwrap();
    assert_eq!((status.name.as_str(), status.guest, status.memory), ("vm1", GuestState::Running, 1 << 30));
    assert_eq!(client.pause().unwrap().guest, GuestState::Paused);
    assert_eq!(client.pause().unwrap().guest, GuestState::Paused);
    assert_eq!(client.resume().unwrap().guest, GuestState::Running);
    assert_eq!(client.stop().unwrap().guest, GuestState::Stopped);
    let Err(ClientError::Failed(failure)) = client.resume() else { panic!("a stopped guest was resumed") };
    assert_eq!((failure.code, failure.guest), (Code::WrongState, GuestState::Stopped));
    assert_eq!(failure.advice, "restore an image");
}

#[test]
fn a_check_answers_however_long_it_takes() {
    let rig = rig();
    rig.mock.gate.shut();
    std::thread::scope(|scope| {
        let check = scope.spawn(|| Client::connect(&rig.path).unwrap().check().unwrap());
        Client::connect(&rig.path).unwrap().status().unwrap();
        rig.mock.gate.open();
        let check = check.join().unwrap();
        let outcomes = (check.guest_check, check.memory_check);
        assert_eq!((outcomes, check.pages), ((CheckOutcome::Ok, CheckOutcome::Absent), 3));
    });
}

#[test]
fn a_checkpoint_reports_on_its_way() {
    let rig = rig();
    rig.mock.events.store(3, Ordering::SeqCst);
    let client = Client::connect(&rig.path).unwrap();
    let mut seen = Vec::new();
    let taken = client.checkpoint(&CheckpointRequest::default(), |p| seen.push(p.pages)).unwrap();
    assert_eq!(seen, [0, 1, 2]);
    assert_eq!((taken.pages, taken.by_source["ring"], taken.pause_ms), (7, 5, 0.75));
    assert!(taken.parent.is_some());
    let full = CheckpointRequest { full: true, ..CheckpointRequest::default() };
    assert!(client.checkpoint(&full, |_| {}).unwrap().parent.is_none());
    assert_eq!(client.status().unwrap().checkpoints, 2);
}

#[test]
fn more_progress_than_a_client_takes_is_left_out_and_the_result_is_not() {
    let rig = rig();
    rig.mock.events.store(100_000, Ordering::SeqCst);
    let client = Client::connect(&rig.path).unwrap();
    let mut seen = 0;
    assert_eq!(client.checkpoint(&CheckpointRequest::default(), |_| seen += 1).unwrap().pages, 7);
    assert!(seen > 0);
}

#[test]
fn a_failed_checkpoint_says_why() {
    let rig = rig();
    let failure =
        Failure::new(Code::StoreFull, "no space in /store").guest(GuestState::Running).advice("free some");
    *rig.mock.fail.lock().unwrap() = Some(failure.clone());
    let client = Client::connect(&rig.path).unwrap();
    let Err(ClientError::Failed(found)) = client.checkpoint(&CheckpointRequest::default(), |_| {}) else {
        panic!("the failure was lost")
    };
    assert_eq!(found, failure);
}

#[test]
fn a_second_checkpoint_is_busy() {
    let rig = rig();
    rig.mock.gate.shut();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            Client::connect(&rig.path).unwrap().checkpoint(&CheckpointRequest::default(), |_| {}).unwrap()
        });
        rig.mock.wait_until_running();
        let client = Client::connect(&rig.path).unwrap();
        let Err(ClientError::Failed(failure)) = client.checkpoint(&CheckpointRequest::default(), |_| {})
        else {
            panic!("two checkpoints at once")
        };
        assert_eq!((failure.code, failure.guest), (Code::Busy, GuestState::Running));
        // Everything else is answered meanwhile.
        assert!(client.status().unwrap().checkpoint_running);
        rig.mock.gate.open();
        assert_eq!(first.join().unwrap().pages, 7);
        // And the next one may begin as soon as the first has answered.
        client.checkpoint(&CheckpointRequest::default(), |_| {}).unwrap();
    });
}

#[test]
fn a_checkpoint_outlives_its_client() {
    let rig = rig();
    rig.mock.gate.shut();
    let mut stream = common::dial(&rig.path);
    std::io::Write::write_all(
        &mut stream,
        b"POST /v1/checkpoint HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
    )
    .unwrap();
    rig.mock.wait_until_running();
    drop(stream);
    rig.mock.gate.open();
    let client = Client::connect(&rig.path).unwrap();
    while client.status().unwrap().checkpoints == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_panic_in_the_service_is_an_answer() {
    let rig = rig();
    rig.mock.panic.store(true, Ordering::SeqCst);
    let client = Client::connect(&rig.path).unwrap();
    let Err(ClientError::Failed(failure)) = client.checkpoint(&CheckpointRequest::default(), |_| {}) else {
        panic!("no failure")
    };
    assert_eq!(failure.code, Code::Internal);
    rig.mock.panic.store(false, Ordering::SeqCst);
    client.checkpoint(&CheckpointRequest::default(), |_| {}).unwrap();
}

#[test]
fn the_wire_is_plain_http_and_json() {
    let rig = rig();
    let answer = raw(&rig.path, b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    assert!(
        answer.contains(r#""schema":1,"name":"vm1""#) && answer.contains(r#""guest":"running""#),
        "{answer}"
    );

    rig.mock.events.store(1, Ordering::SeqCst);
    let answer = raw(
        &rig.path,
        b"POST /v1/checkpoint HTTP/1.1\r\nhost: localhost\r\ncontent-length: 13\r\n\r\n{\"full\":true}",
    );
    assert!(answer.contains("content-type: application/x-ndjson\r\n"), "{answer}");
    let (first, last) = (answer.find("{\"progress\":{"), answer.find("{\"result\":{"));
    assert!(first.is_some() && first < last, "{answer}");
    assert!(answer.contains(r#""parent":null"#), "{answer}");
}

#[test]
fn codes_keep_their_names() {
    let table: Vec<String> = Code::ALL.iter().map(|c| format!("{c} {}", c.http_status())).collect();
    assert_eq!(
        table,
        [
            "bad_request 400",
            "not_found 404",
            "method_not_allowed 405",
            "too_large 413",
            "forbidden 403",
            "busy 409",
            "wrong_state 409",
            "not_supported 501",
            "timeout 504",
            "store_full 507",
            "store 500",
            "tracking 500",
            "escape 500",
            "guest 500",
            "refused 409",
            "unreachable 502",
            "goal 409",
            "cancelled 409",
            "undecided 504",
            "shutting_down 503",
            "internal 500",
        ]
    );
    for code in Code::ALL {
        let json = serde_json::to_string(code).unwrap();
        assert_eq!(json, format!("\"{code}\""));
        assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
    }
    // What a later version says is understood as far as it can be.
    assert_eq!(serde_json::from_str::<Code>("\"of_tomorrow\"").unwrap(), Code::Internal);
    assert_eq!(serde_json::from_str::<GuestState>("\"asleep\"").unwrap(), GuestState::Unknown);
}
