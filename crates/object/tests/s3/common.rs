//! An S3 server on the loopback interface, with faults between it and its clients.

mod faults;
// Memories to take images of, and places that fail.
#[allow(dead_code, reason = "the tests of directories use more of it")]
#[path = "../../../image/tests/store/common/mod.rs"]
mod of_images;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmark_image::Backend;
use ringmark_object::{Limits, open_with};

pub(crate) use faults::Fault;
pub(crate) use of_images::{Memory, assert_holds, backend_faults, layout, noise, spec, take_base};
pub(crate) use server::Server;

/// Limits of a service that is near, so that tests of failing ones do not take minutes.
pub(crate) const LIMITS: Limits = Limits {
    retries: Duration::from_secs(10),
    request: Duration::from_secs(2),
    lease: Duration::from_secs(60),
};

impl Server {
    /// A backend as another process would have it.
    pub(crate) fn backend(&self) -> Arc<dyn Backend> {
        self.backend_within(LIMITS)
    }

    pub(crate) fn backend_within(&self, limits: Limits) -> Arc<dyn Backend> {
        open_with("s3://bucket/some/prefix", self.settings(), limits).unwrap()
    }
}

/// Waits until `what` is so: a bound for what hangs, not a measure.
pub(crate) fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !look() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes of which no two pieces are equal.
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = 2 * seed + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
