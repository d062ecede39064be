//! The backend, and stores of images on it, against a real S3 server on the loopback interface.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod common;
// What every kind of place has to stand.
#[path = "../../../image/tests/store/failing_backend.rs"]
mod failing_backend;
mod images;
mod objects;
