//! Clients that send nonsense, too much, or nothing.

mod common;

use std::io::{Read, Write};

use common::{dial, raw, rig};
use proptest::prelude::*;
use ringmark_control::{Client, Event};

fn post(route: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST {route} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

#[test]
fn refusals_are_json_with_the_guest_state() {
    let rig = rig();
    for (request, status, code) in [
        (b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), 404, "not_found"),
        (b"GET /v1/checkpoint HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), 405, "method_not_allowed"),
        (post("/v1/status", b""), 405, "method_not_allowed"),
        (post("/v1/checkpoint", b"{"), 400, "bad_request"),
        (post("/v1/checkpoint", b"{\"fulll\":true}"), 400, "bad_request"),
        (post("/v1/checkpoint", b"{\"schema\":2}"), 400, "bad_request"),
        (post("/v1/checkpoint", b"{\"schema\":0}"), 400, "bad_request"),
        (post("/v1/checkpoint", &[b'['; 4000]), 400, "bad_request"),
        (post("/v1/checkpoint", &vec![b' '; 1 << 20]), 413, "too_large"),
    ] {
        let answer = raw(&rig.path, &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(&format!(r#"{{"schema":1,"error":{{"code":"{code}""#)), "{answer}");
        assert!(answer.contains(r#""guest":"running""#), "{answer}");
    }
    assert!(!rig.mock.running.load(std::sync::atomic::Ordering::SeqCst));
}

#[test]
fn headers_are_bounded() {
    let rig = rig();
    let mut long = b"GET /v1/status HTTP/1.1\r\nhost: x\r\nx: ".to_vec();
    long.resize(1 << 20, b'a');
    let answer = raw(&rig.path, &long);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let mut many = b"GET /v1/status HTTP/1.1\r\nhost: x\r\n".to_vec();
    for i in 0..100 {
        many.extend_from_slice(format!("x{i}: y\r\n").as_bytes());
    }
    many.extend_from_slice(b"\r\n");
    let answer = raw(&rig.path, &many);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    Client::connect(&rig.path).unwrap().status().unwrap();
}

#[test]
fn half_open_clients_are_cut_off_and_keep_nobody_out() {
    let rig = rig();
    // More than the server takes at a time, each with half a header.
    let mut half: Vec<_> = (0..48).map(|_| dial(&rig.path)).collect();
    for stream in &mut half {
        stream.write_all(b"GET /v1/sta").unwrap();
    }
    Client::connect(&rig.path).unwrap().status().unwrap();
    for mut stream in half {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn a_body_that_does_not_arrive_is_refused() {
    let rig = rig();
    let mut stream = dial(&rig.path);
    stream.write_all(b"POST /v1/checkpoint HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("did not arrive"), "{answer}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_harms_nobody(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
        // One server for all cases would hide which case broke it; one a case is quick enough.
        let rig = rig();
        let mut stream = dial(&rig.path);
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        prop_assert!(!answer.starts_with(b"HTTP/1.1 200"));
        prop_assert_eq!(Client::connect(&rig.path).unwrap().status().unwrap().name, "vm1");
    }

    #[test]
    fn bodies_of_noise_take_no_checkpoint(noise in proptest::collection::vec(any::<u8>(), 1..200)) {
        let rig = rig();
        let answer = raw(&rig.path, &post("/v1/checkpoint", &noise));
        prop_assert!(answer.starts_with("HTTP/1.1 400 "), "{}", answer);
    }

    #[test]
    fn events_are_read_or_refused(text in "\\PC*") {
        let _ = serde_json::from_str::<Event>(&text);
    }
}
