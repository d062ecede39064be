//! What each route does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::connection::PATIENCE;
use crate::events::EventBody;
use crate::wire::ErrorBody;
use crate::{CheckpointRequest, Code, Decide, Failure, MigrateRequest, PredictRequest, SCHEMA, Service};

/// Bytes of a request's body.
const MAX_BODY: usize = 64 << 10;

/// How long a call of the service may take, but for checkpoints and checks.
const CALL: Duration = Duration::from_secs(30);

/// How long a check of the guest's memory may take.
pub(crate) const CHECK: Duration = Duration::from_secs(30 * 60);

/// How long a refusal waits to learn what the guest is doing.
const GLANCE: Duration = Duration::from_secs(1);

/// Progress that may wait for a slow client; what does not fit is left out.
const EVENTS: usize = 64;

struct Machine {
    service: Arc<dyn Service>,
    /// One permit: that of the checkpoint being taken, of the migration, or of the prediction.
    busy: Arc<Semaphore>,
    /// What calls the migration off that is under way.
    migration: Mutex<Option<Arc<AtomicBool>>>,
}

type Shared = State<Arc<Machine>>;

pub(crate) fn router(service: Arc<dyn Service>) -> Router {
    let machine =
        Arc::new(Machine { service, busy: Arc::new(Semaphore::new(1)), migration: Mutex::default() });
    Router::new()
        .route("/v1/status", get(async |machine: Shared| call(&machine, CALL, |s| s.status()).await))
        .route("/v1/checkpoint", post(checkpoint))
        .route("/v1/migrate", post(migrate))
        .route("/v1/migrate/cancel", post(cancel))
        .route("/v1/predict", post(predict))
        .route("/v1/decide", post(decide))
        .route("/v1/check", post(async |machine: Shared| call(&machine, CHECK, |s| s.check()).await))
        .route("/v1/pause", post(async |machine: Shared| call(&machine, CALL, |s| s.pause()).await))
        .route("/v1/resume", post(async |machine: Shared| call(&machine, CALL, |s| s.resume()).await))
        .route("/v1/stop", post(async |machine: Shared| call(&machine, CALL, |s| s.stop()).await))
        .fallback(async |machine: Shared| {
            let failure = Failure::new(Code::NotFound, "there is no such route")
                .advice("use /v1/status, /v1/checkpoint, /v1/migrate, /v1/migrate/cancel, /v1/predict, /v1/decide, /v1/check, /v1/pause, \
                     /v1/resume or /v1/stop");
            refuse(&machine, failure).await
        })
        .method_not_allowed_fallback(async |machine: Shared| {
            let failure = Failure::new(Code::MethodNotAllowed, "the route has another method")
                .advice("use GET for /v1/status and POST for the others");
            refuse(&machine, failure).await
        })
        .with_state(machine)
}

/// Calls a method of the service on a thread that may block.
async fn call<T: Serialize + Send + 'static>(
    machine: &Machine,
    within: Duration,
    method: impl FnOnce(&dyn Service) -> Result<T, Failure> + Send + 'static,
) -> Response {
    let service = Arc::clone(&machine.service);
    let answer = timeout(within, spawn_blocking(move || method(&*service))).await;
    match answer {
        Ok(Ok(Ok(answer))) => json(StatusCode::OK, &answer),
        Ok(Ok(Err(failure))) => failed(&failure),
        Ok(Err(_)) => failed(&panicked()),
        Err(_) => failed(
            &Failure::new(Code::Timeout, format!("the machine did not answer within {within:?}"))
                .advice("what was asked for may still happen: ask for the status"),
        ),
    }
}

async fn checkpoint(machine: Shared, body: Body) -> Response {
    let request = match read_request(body, Some(CheckpointRequest::default()), |r| r.schema).await {
        Ok(request) => request,
        Err(failure) => return refuse(&machine, failure).await,
    };
    let Ok(permit) = Arc::clone(&machine.busy).try_acquire_owned() else {
        return refuse(&machine, busy()).await;
    };
    let (progress, events) = mpsc::channel(EVENTS);
    let (done, result) = oneshot::channel();
    let service = Arc::clone(&machine.service);
    spawn_blocking(move || {
        let outcome = service.checkpoint(&request, &mut |event| {
            // A client that is slow misses some, one that is gone misses all; neither holds the checkpoint up.
            let _ = progress.try_send(event);
        });
        // Before the client learns of it, so that it may ask for the next one at once.
        drop(permit);
        let _ = done.send(outcome);
    });
    lines(Body::new(EventBody::new(events, result)))
}

async fn migrate(machine: Shared, body: Body) -> Response {
    let request = match read_request(body, None, |r: &MigrateRequest| r.schema).await {
        Ok(request) => request,
        Err(failure) => return refuse(&machine, failure).await,
    };
    let Ok(permit) = Arc::clone(&machine.busy).try_acquire_owned() else {
        return refuse(&machine, busy()).await;
    };
    let cancel = Arc::new(AtomicBool::new(false));
    *machine.migration.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&cancel));
    let (progress, events) = mpsc::channel(EVENTS);
    let (done, result) = oneshot::channel();
    let (migrating, cancelled) = (Arc::clone(&machine), Arc::clone(&cancel));
    spawn_blocking(move || {
        let outcome = migrating.service.migrate(&request, &cancelled, &mut |event| {
            // As for a checkpoint.
            let _ = progress.try_send(event);
        });
        *migrating.migration.lock().unwrap_or_else(PoisonError::into_inner) = None;
        drop(permit);
        let _ = done.send(outcome);
    });
    // Who asks for a migration and goes away wants it no more.
    lines(Body::new(EventBody::new(events, result).telling(cancel)))
}

async fn cancel(machine: Shared) -> Response {
    // One that panicked has left its flag, and not the permit.
    let under_way = machine.busy.available_permits() == 0;
    let migration = machine.migration.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(cancel) = migration.filter(|_| under_way) else {
        let failure = Failure::new(Code::WrongState, "no migration of this machine is under way")
            .advice("ask for the status");
        return refuse(&machine, failure).await;
    };
    cancel.store(true, Ordering::Relaxed);
    call(&machine, CALL, |service| service.status()).await
}

async fn predict(machine: Shared, body: Body) -> Response {
    let request = match read_request(body, Some(PredictRequest::default()), |r| r.schema).await {
        Ok(request) => request,
        Err(failure) => return refuse(&machine, failure).await,
    };
    let Ok(permit) = Arc::clone(&machine.busy).try_acquire_owned() else {
        return refuse(&machine, busy()).await;
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (_, events) = mpsc::channel::<()>(1);
    let (done, result) = oneshot::channel();
    let (service, stopped) = (Arc::clone(&machine.service), Arc::clone(&stop));
    spawn_blocking(move || {
        let outcome = service.predict(&request, &stopped);
        drop(permit);
        let _ = done.send(outcome);
    });
    lines(Body::new(EventBody::new(events, result).telling(stop)))
}

async fn decide(machine: Shared, body: Body) -> Response {
    match read_request(body, None, |r: &Decide| r.schema).await {
        Ok(Decide { decision, .. }) => call(&machine, CALL, move |service| service.decide(decision)).await,
        Err(failure) => refuse(&machine, failure).await,
    }
}

fn busy() -> Failure {
    Failure::new(Code::Busy, "a checkpoint, a migration or a prediction of this machine is under way already")
        .advice("wait for it and ask again")
}

fn lines(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

/// Reads a request; `nothing` is what no body at all means.
async fn read_request<T: DeserializeOwned>(
    body: Body,
    nothing: Option<T>,
    schema: impl Fn(&T) -> u32,
) -> Result<T, Failure> {
    let bytes: Bytes = match timeout(PATIENCE, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(e)) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&e);
            while let Some(error) = cause {
                if error.is::<http_body_util::LengthLimitError>() {
                    return Err(Failure::new(
                        Code::TooLarge,
                        format!("the body has more than {MAX_BODY} bytes"),
                    )
                    .advice("send the fields of the request and nothing else"));
                }
                cause = error.source();
            }
            return Err(Failure::new(Code::BadRequest, format!("the body could not be read: {e}")));
        }
        Err(_) => {
            return Err(Failure::new(
                Code::BadRequest,
                format!("the body did not arrive within {PATIENCE:?}"),
            ));
        }
    };
    if let (true, Some(nothing)) = (bytes.is_empty(), nothing) {
        return Ok(nothing);
    }
    let request: T = serde_json::from_slice(&bytes).map_err(|e| {
        Failure::new(Code::BadRequest, format!("the body is not a request of this route: {e}"))
            .advice("send the fields of the request and nothing else")
    })?;
    let schema = schema(&request);
    if schema != SCHEMA {
        let message = format!("the request is of schema {schema}; this machine speaks {SCHEMA}");
        return Err(Failure::new(Code::BadRequest, message).advice("use a client of the machine's version"));
    }
    Ok(request)
}

/// Answers `failure` with what the guest is doing now.
async fn refuse(machine: &Machine, failure: Failure) -> Response {
    let service = Arc::clone(&machine.service);
    let status = timeout(GLANCE, spawn_blocking(move || service.status())).await;
    match status {
        Ok(Ok(Ok(status))) => failed(&failure.guest(status.guest)),
        _ => failed(&failure),
    }
}

/// What is said when a method of the service panicked.
pub(crate) fn panicked() -> Failure {
    Failure::new(Code::Internal, "the machine's program failed while it answered")
        .advice("look at its log, and report the fault")
}

pub(crate) fn failed(failure: &Failure) -> Response {
    let status =
        StatusCode::from_u16(failure.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, &ErrorBody { schema: SCHEMA, error: failure.clone() })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
