//! The backend, and stores of images on it, against a real S3 server on the loopback interface.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod common;
mod images;
mod objects;
