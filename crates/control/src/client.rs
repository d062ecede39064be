//! The client, for callers that block.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;

use crate::connection::may_control;
use crate::wire::ErrorBody;
use crate::{
    Check, Checkpoint, CheckpointRequest, Decide, Decision, Event, Failure, MigrateProgress, MigrateRequest,
    Migration, PredictRequest, Predicted, Progress, SCHEMA, Status, routes,
};

/// Bytes of an answer, and of a line of a stream.
const MAX_ANSWER: usize = 1 << 20;

/// How long the machine may take to answer, or to begin the answer to a checkpoint request. More than the server
/// gives itself.
const ANSWER: Duration = Duration::from_secs(45);

/// Why there is no connection to a machine.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no such socket.
    #[error("no machine listens at {}: start one, or check the name", .0.display())]
    NoMachine(PathBuf),
    /// The socket is there, but its process is not.
    #[error("the machine at {} is gone: its process has ended without removing the socket", .0.display())]
    Gone(PathBuf),
    /// The socket is another user's.
    #[error("the machine at {} belongs to another user: ask as the user who runs it", .0.display())]
    NotYours(PathBuf),
    /// The system refused.
    #[error("cannot connect to the machine at {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The machine refused or failed, and said why.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The connection ended before the answer did. What was asked for may still happen.
    #[error("the machine at {path} went away before it had answered: {what}; see whether it still runs")]
    Lost {
        /// The socket.
        path: PathBuf,
        /// What ended it.
        what: String,
    },
    /// The machine did not answer in time. What was asked for may still happen.
    #[error("the machine at {path} did not answer within {} s; see whether it still runs", .after.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is no answer of this version.
    #[error("the answer of {path} is not understood: {what}; is it a Ringmark machine of this version?")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// A machine's socket, for callers that block. Every request has a connection of its own.
///
/// # Panics
/// Its methods panic when they are called from within an asynchronous runtime, which must not be blocked.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the machine at `path`; tries the socket once.
    ///
    /// # Errors
    /// No socket, nobody behind it, or somebody else.
    pub fn connect(path: impl Into<PathBuf>) -> Result<Self, ConnectError> {
        let path = path.into();
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|source| ConnectError::Io { path: path.clone(), source })?;
        runtime.block_on(open(&path))?;
        Ok(Self { path, runtime })
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The machine as it is now.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status")
    }

    /// Takes a checkpoint and waits until its image is durable; `progress` is called on the way. The machine goes on
    /// with it when this process ends.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn checkpoint(
        &self,
        request: &CheckpointRequest,
        mut progress: impl FnMut(Progress),
    ) -> Result<Checkpoint, ClientError> {
        let taken: Checkpoint = self.stream("/v1/checkpoint", request, &mut progress)?;
        self.check_schema(taken.schema)?;
        Ok(taken)
    }

    /// Sends the machine to another host and waits until its guest runs there; `progress` is called on the way. When this
    /// process ends before, the migration is called off.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn migrate(
        &self,
        request: &MigrateRequest,
        mut progress: impl FnMut(MigrateProgress),
    ) -> Result<Migration, ClientError> {
        let migration: Migration = self.stream("/v1/migrate", request, &mut progress)?;
        self.check_schema(migration.schema)?;
        Ok(migration)
    }

    /// Calls the migration off that is under way; who has asked for it is told.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn cancel_migration(&self) -> Result<Status, ClientError> {
        self.ask(Method::POST, "/v1/migrate/cancel")
    }

    /// Has the guest's writes watched, and waits for what its migration would come to. When this process ends before, the watch
    /// is ended.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn predict(&self, request: &PredictRequest) -> Result<Predicted, ClientError> {
        let predicted: Predicted = self.stream("/v1/predict", request, &mut |(): ()| {})?;
        self.check_schema(predicted.schema)?;
        Ok(predicted)
    }

    /// Decides what becomes of a guest that stands still because it may run on the other side of a migration.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn decide(&self, decision: Decision) -> Result<Status, ClientError> {
        let body = self.encode(&Decide { schema: SCHEMA, decision })?;
        let status: Status = self.answer(Method::POST, "/v1/decide", body, ANSWER)?;
        self.check_schema(status.schema)?;
        Ok(status)
    }

    fn encode(&self, request: &impl Serialize) -> Result<Vec<u8>, ClientError> {
        serde_json::to_vec(request).map_err(|e| self.nonsense(e.to_string()))
    }

    fn stream<P: DeserializeOwned, R: DeserializeOwned>(
        &self,
        route: &str,
        request: &impl Serialize,
        progress: &mut impl FnMut(P),
    ) -> Result<R, ClientError> {
        let body = self.encode(request)?;
        self.runtime.block_on(async {
            let response = self.request(Method::POST, route, body, ANSWER).await?;
            self.follow(response, progress).await
        })
    }

    /// Lets guest and monitor check the guest's memory, which may take minutes.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense. A page that is wrong is an answer, not an error.
    pub fn check(&self) -> Result<Check, ClientError> {
        let check: Check = self.answer(Method::POST, "/v1/check", Vec::new(), routes::CHECK + ANSWER)?;
        self.check_schema(check.schema)?;
        Ok(check)
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn pause(&self) -> Result<Status, ClientError> {
        self.ask(Method::POST, "/v1/pause")
    }

    /// Lets the vCPUs run again.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn resume(&self) -> Result<Status, ClientError> {
        self.ask(Method::POST, "/v1/resume")
    }

    /// Ends the machine; the answer comes before the end.
    ///
    /// # Errors
    /// No answer, a refusal, or nonsense.
    pub fn stop(&self) -> Result<Status, ClientError> {
        self.ask(Method::POST, "/v1/stop")
    }

    fn ask(&self, method: Method, route: &str) -> Result<Status, ClientError> {
        let status: Status = self.answer(method, route, Vec::new(), ANSWER)?;
        self.check_schema(status.schema)?;
        Ok(status)
    }

    fn answer<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<T, ClientError> {
        self.runtime.block_on(async {
            let response = self.request(method, route, body, within).await?;
            let body = timeout(within, Limited::new(response.into_body(), MAX_ANSWER).collect())
                .await
                .map_err(|_| self.late(within))?
                .map_err(|e| self.lost(e.to_string()))?;
            self.parse(&body.to_bytes())
        })
    }

    /// Sends a request and receives the header of an answer that is not a failure.
    async fn request(
        &self,
        method: Method,
        route: &str,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = open(&self.path).await?;
        let exchange = async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.lost(e.to_string()))?;
            // Ends with the connection; its error is the one that the request sees.
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(route)
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))
                .map_err(|e| self.nonsense(e.to_string()))?;
            let response = sender.send_request(request).await.map_err(|e| self.lost(e.to_string()))?;
            if response.status() == StatusCode::OK {
                return Ok(response);
            }
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|e| self.lost(e.to_string()))?;
            match serde_json::from_slice::<ErrorBody>(&body.to_bytes()) {
                Ok(answer) => Err(answer.error.into()),
                Err(e) => Err(self.nonsense(format!("HTTP status {status}, {e}"))),
            }
        };
        timeout(within, exchange).await.map_err(|_| self.late(within))?
    }

    /// Reads the lines of an answer to the last.
    async fn follow<P: DeserializeOwned, R: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
        progress: &mut impl FnMut(P),
    ) -> Result<R, ClientError> {
        let mut body = response.into_body();
        let mut text = Vec::new();
        loop {
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                match self.parse::<Event<P, R>>(&line)? {
                    Event::Progress(event) => progress(event),
                    Event::Result(result) => return Ok(*result),
                    Event::Error(failure) => return Err(failure.into()),
                }
            }
            let frame = match body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(e)) => return Err(self.lost(e.to_string())),
                None => return Err(self.lost("the stream has no last line".to_owned())),
            };
            if let Ok(data) = frame.into_data() {
                if text.len() + data.len() > MAX_ANSWER {
                    return Err(self.nonsense(format!("a line of more than {MAX_ANSWER} bytes")));
                }
                text.extend_from_slice(&data);
            }
        }
    }

    fn parse<T: DeserializeOwned>(&self, text: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(text).map_err(|e| self.nonsense(e.to_string()))
    }

    fn check_schema(&self, schema: u32) -> Result<(), ClientError> {
        if schema == SCHEMA {
            return Ok(());
        }
        Err(self.nonsense(format!("it is of schema {schema}, this program speaks {SCHEMA}")))
    }

    fn nonsense(&self, what: String) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), what }
    }

    fn lost(&self, what: String) -> ClientError {
        ClientError::Lost { path: self.path.clone(), what }
    }

    fn late(&self, after: Duration) -> ClientError {
        ClientError::Timeout { path: self.path.clone(), after }
    }
}

/// Connects to the socket at `path` and makes sure that our own user, or root, is behind it.
async fn open(path: &Path) -> Result<UnixStream, ConnectError> {
    let failed = |source| ConnectError::Io { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).await.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => ConnectError::NoMachine(path.to_owned()),
        io::ErrorKind::ConnectionRefused => ConnectError::Gone(path.to_owned()),
        io::ErrorKind::PermissionDenied => ConnectError::NotYours(path.to_owned()),
        _ => failed(e),
    })?;
    let peer = stream.peer_cred().map_err(failed)?;
    let we = rustix::process::geteuid().as_raw();
    // Root may control every machine, so it may meet any user here.
    if we != 0 && !may_control(peer.uid(), we) {
        return Err(ConnectError::NotYours(path.to_owned()));
    }
    Ok(stream)
}
