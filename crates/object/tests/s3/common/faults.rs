//! What may happen to a request.

use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing does.
    None,
    /// It is refused with this status.
    Refuse(u16),
    /// It is carried out, and answered with this status all the same.
    Deny(u16),
    /// The connection is cut before it is carried out.
    CutBefore,
    /// The connection is cut after it was carried out.
    CutAfter,
    /// The connection is cut in the midst of the answer.
    CutAnswer,
    /// It waits before it is carried out.
    Slow(Duration),
}

impl Fault {
    /// All kinds, with a delay that no client of the tests waits for.
    pub(crate) const EVERY: [Self; 8] = [
        Self::Refuse(500),
        Self::Refuse(503),
        Self::Refuse(429),
        Self::Deny(500),
        Self::CutBefore,
        Self::CutAfter,
        Self::CutAnswer,
        Self::Slow(Duration::from_millis(2500)),
    ];
}

/// What a plan sees of a request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Requests before it.
    pub(crate) number: usize,
}

type Decide = Box<dyn FnMut(&Request) -> Fault + Send>;

/// Decides over requests.
#[derive(Clone)]
pub(crate) struct Plan {
    state: Arc<Mutex<State>>,
}

struct State {
    decide: Decide,
    seen: usize,
}

impl Plan {
    pub(crate) fn none() -> Self {
        let state = State { decide: Box::new(|_| Fault::None), seen: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// From here on `decide` decides, and requests are counted anew.
    pub(crate) fn set(&self, decide: impl FnMut(&Request) -> Fault + Send + 'static) {
        *self.state.lock().unwrap() = State { decide: Box::new(decide), seen: 0 };
    }

    /// From here on all goes well.
    pub(crate) fn clear(&self) {
        self.set(|_| Fault::None);
    }

    pub(crate) fn decide(&self, method: &str, target: &str) -> Fault {
        let mut state = self.state.lock().unwrap();
        let number = state.seen;
        let request = Request { method: method.to_owned(), target: target.to_owned(), number };
        let fault = (state.decide)(&request);
        state.seen += 1;
        fault
    }
}
