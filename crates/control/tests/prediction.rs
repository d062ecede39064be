//! Predictions over the socket: one at a time with checkpoints and migrations, and for somebody who waits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{dial, raw, rig};
use ringmark_control::{Client, ClientError, Code, MigrateRequest, PredictRequest};

#[test]
fn a_prediction_comes_with_what_was_asked() {
    let rig = rig();
    let client = Client::connect(&rig.path).unwrap();
    let request = PredictRequest { bandwidth: Some(1 << 30), ..PredictRequest::default() };
    assert_eq!(client.predict(&request).unwrap().bandwidth, f64::from(1 << 30));
    // Nothing is a question, too; what is none is refused.
    let ask = |body: &str| {
        let head = format!("POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        raw(&rig.path, (head + body).as_bytes())
    };
    assert!(ask("").contains("\"result\":"), "{}", ask(""));
    assert!(ask("{\"fast\":1}").starts_with("HTTP/1.1 400"), "{}", ask("{\"fast\":1}"));
}

#[test]
fn nothing_else_runs_beside_it_and_it_ends_with_who_asked() {
    let rig = rig();
    rig.mock.gate.shut();
    let mut asking = dial(&rig.path);
    let head = "POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    asking.write_all(head.as_bytes()).unwrap();
    rig.mock.wait_until_running();
    let client = Client::connect(&rig.path).unwrap();
    let busy = |answer: Result<(), ClientError>| {
        let Err(ClientError::Failed(failure)) = answer else { panic!("it was not refused: {answer:?}") };
        assert_eq!(failure.code, Code::Busy);
    };
    busy(client.predict(&PredictRequest::default()).map(drop));
    busy(client.migrate(&MigrateRequest::to("unix:/x"), |_| {}).map(drop));
    busy(client.checkpoint(&Default::default(), |_| {}).map(drop));
    let Err(ClientError::Failed(failure)) = client.cancel_migration() else {
        panic!("a prediction was taken for a migration")
    };
    assert_eq!(failure.code, Code::WrongState);
    drop(asking);
    let begun = Instant::now();
    while rig.mock.cancelled.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the guest is watched for nobody");
        std::thread::sleep(Duration::from_millis(1));
    }
}
