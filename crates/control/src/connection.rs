//! Connections: who may have one, how many, and for how long.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::patient::Patient;
use crate::{Code, Failure, routes};

/// Connections at a time; more wait in the socket's backlog.
const CONNECTIONS: usize = 32;

/// How long a client may take to send its header, and to take what it is sent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long answers may take to reach their clients after the service has ended.
const GRACE: Duration = Duration::from_secs(1);

/// Bytes of a request's header.
const MAX_HEADER: usize = 16 << 10;

/// Fields of a request's header.
const MAX_FIELDS: usize = 64;

/// Serves `router` on `listener` until `stopped`.
pub(crate) async fn serve(listener: UnixListener, router: Router, stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    let accept = async {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        connection(stream, router).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: it passes, and must not become a busy loop.
                    tracing::warn!(%error, "a control client could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        // A server that was dropped without a word has stopped too.
        _ = stopped => {}
    }
    drop(listener);
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(stream: UnixStream, router: Router) {
    let we = rustix::process::geteuid().as_raw();
    let router = match stream.peer_cred() {
        Ok(peer) if may_control(peer.uid(), we) => router,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "another user's control client was refused");
            refuse(peer.uid())
        }
        Err(error) => {
            tracing::warn!(%error, "a control client without credentials was refused");
            return;
        }
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a control client went away or sent nonsense");
    }
}

/// Whether a process of user `peer` may control a machine of user `we`.
pub(crate) fn may_control(peer: u32, we: u32) -> bool {
    peer == we || peer == 0
}

/// What every route answers to another user.
fn refuse(uid: u32) -> Router {
    Router::new().fallback(move || async move {
        let failure = Failure::new(Code::Forbidden, format!("user {uid} may not control this machine"))
            .advice("ask as the user who runs it");
        routes::failed(&failure).into_response()
    })
}
