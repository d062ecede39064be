//! The answer to a checkpoint request, line by line.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::{mpsc, oneshot};

use crate::{Checkpoint, Event, Failure, Progress, routes};

/// Progress as it comes, then the result, as lines of JSON.
#[derive(Debug)]
pub(crate) struct EventBody {
    progress: mpsc::Receiver<Progress>,
    /// `None` after the last line.
    result: Option<oneshot::Receiver<Result<Checkpoint, Failure>>>,
}

impl EventBody {
    pub(crate) fn new(
        progress: mpsc::Receiver<Progress>,
        result: oneshot::Receiver<Result<Checkpoint, Failure>>,
    ) -> Self {
        Self { progress, result: Some(result) }
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // All progress first: its channel closes when the service has returned, or panicked.
        if let Some(progress) = ready!(self.progress.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(line(&Event::Progress(progress)))));
        }
        let Some(result) = self.result.as_mut() else { return Poll::Ready(None) };
        let last = match ready!(Pin::new(result).poll(cx)) {
            Ok(Ok(checkpoint)) => Event::Result(Box::new(checkpoint)),
            Ok(Err(failure)) => Event::Error(failure),
            // The sender was dropped in a panic.
            Err(_) => Event::Error(routes::panicked()),
        };
        self.result = None;
        Poll::Ready(Some(Ok(line(&last))))
    }
}

fn line(event: &Event) -> Frame<Bytes> {
    let mut text = serde_json::to_vec(event).unwrap_or_else(|error| {
        tracing::error!(%error, "an event could not be written as JSON");
        Vec::new()
    });
    text.push(b'\n');
    Frame::data(text.into())
}
