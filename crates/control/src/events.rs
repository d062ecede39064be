//! An answer that takes its time, line by line.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::{Event, Failure, routes};

/// Progress as it comes, then the result, as lines of JSON.
#[derive(Debug)]
pub(crate) struct EventBody<P, R> {
    progress: mpsc::Receiver<P>,
    /// `None` after the last line.
    result: Option<oneshot::Receiver<Result<R, Failure>>>,
    /// Set when nobody takes lines any more.
    abandoned: Option<Arc<AtomicBool>>,
}

impl<P, R> EventBody<P, R> {
    pub(crate) fn new(progress: mpsc::Receiver<P>, result: oneshot::Receiver<Result<R, Failure>>) -> Self {
        Self { progress, result: Some(result), abandoned: None }
    }

    /// The same, which sets `abandoned` if it is dropped: its client has gone, or has had the last line.
    pub(crate) fn telling(mut self, abandoned: Arc<AtomicBool>) -> Self {
        self.abandoned = Some(abandoned);
        self
    }
}

impl<P, R> Drop for EventBody<P, R> {
    fn drop(&mut self) {
        if let Some(abandoned) = &self.abandoned {
            abandoned.store(true, Ordering::Relaxed);
        }
    }
}

impl<P: Serialize, R: Serialize> Body for EventBody<P, R> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // All progress first: its channel closes when the service has returned, or panicked.
        if let Some(progress) = ready!(self.progress.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(line(&Event::<P, R>::Progress(progress)))));
        }
        let Some(result) = self.result.as_mut() else { return Poll::Ready(None) };
        let last: Event<P, R> = match ready!(Pin::new(result).poll(cx)) {
            Ok(Ok(result)) => Event::Result(Box::new(result)),
            Ok(Err(failure)) => Event::Error(failure),
            // The sender was dropped in a panic.
            Err(_) => Event::Error(routes::panicked()),
        };
        self.result = None;
        Poll::Ready(Some(Ok(line(&last))))
    }
}

fn line(event: &impl Serialize) -> Frame<Bytes> {
    let mut text = serde_json::to_vec(event).unwrap_or_else(|error| {
        tracing::error!(%error, "an event could not be written as JSON");
        Vec::new()
    });
    text.push(b'\n');
    Frame::data(text.into())
}
