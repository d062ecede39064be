//! The server: `s3s-fs` behind hyper, in this process.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::faults::{Fault, Plan};

const KEY: &str = "loopback";
const SECRET: &str = "loopback-secret";

/// An S3 server with one bucket, `bucket`.
pub(crate) struct Server {
    pub(crate) plan: Plan,
    address: SocketAddr,
    root: TempDir,
    shared: Arc<Shared>,
    // Ends with the server.
    _runtime: Runtime,
}

struct Shared {
    service: S3Service,
    plan: Plan,
    /// `s3s-fs` looks whether an object exists before it writes it; a conditional put of S3 is one step.
    conditional: tokio::sync::Mutex<()>,
    /// Parts being received, and the most at a time.
    parts: AtomicUsize,
    most_parts: AtomicUsize,
}

impl Server {
    pub(crate) fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let plan = Plan::none();
        let shared = Arc::new(Shared {
            service: builder.build(),
            plan: plan.clone(),
            conditional: tokio::sync::Mutex::default(),
            parts: AtomicUsize::new(0),
            most_parts: AtomicUsize::new(0),
        });
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A connection that was cut is what some tests want.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { plan, address, root, shared, _runtime: runtime }
    }

    /// What a client's environment says.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        [
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &endpoint),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Objects as the server keeps them.
    pub(crate) fn bucket(&self) -> std::path::PathBuf {
        self.root.path().join("bucket")
    }

    /// Parts of uploads that are neither complete nor aborted.
    pub(crate) fn loose_parts(&self) -> usize {
        let is_part = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with(".upload_id-");
        std::fs::read_dir(self.root.path())
            .unwrap()
            .filter(|entry| is_part(&entry.as_ref().unwrap().path()))
            .count()
    }

    /// The most parts that were received at the same time.
    pub(crate) fn most_parts(&self) -> usize {
        self.shared.most_parts.load(Ordering::SeqCst)
    }
}

type Response = hyper::Response<s3s::Body>;

async fn answer(shared: Arc<Shared>, request: hyper::Request<Incoming>) -> io::Result<Response> {
    let target = request.uri().to_string();
    let fault = shared.plan.decide(request.method().as_str(), &target);
    match fault {
        Fault::Refuse(status) => return refuse(request, status).await,
        Fault::CutBefore => return cut(request).await,
        Fault::Slow(delay) => tokio::time::sleep(delay).await,
        Fault::None | Fault::Deny(_) | Fault::CutAfter | Fault::CutAnswer => {}
    }
    let part = target.contains("partNumber=");
    if part {
        let now = shared.parts.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_parts.fetch_max(now, Ordering::SeqCst);
    }
    let guard = match request.headers().contains_key("if-none-match") {
        true => Some(shared.conditional.lock().await),
        false => None,
    };
    let answered = shared.service.call(request.map(s3s::Body::from)).await.map_err(io::Error::other);
    drop(guard);
    if part {
        shared.parts.fetch_sub(1, Ordering::SeqCst);
    }
    let answered = answered?;
    match fault {
        Fault::Deny(status) => Ok(status_of(status)),
        Fault::CutAfter => Err(io::ErrorKind::ConnectionReset.into()),
        Fault::CutAnswer => cut_answer(answered).await,
        _ => Ok(answered),
    }
}

fn status_of(status: u16) -> Response {
    hyper::Response::builder().status(status).body(s3s::Body::empty()).unwrap()
}

/// Answers when all of the request has come, so that the client hears it.
async fn refuse(request: hyper::Request<Incoming>, status: u16) -> io::Result<Response> {
    request.into_body().collect().await.map_err(io::Error::other)?;
    Ok(status_of(status))
}

/// Cuts the connection after the first piece of the request.
async fn cut(request: hyper::Request<Incoming>) -> io::Result<Response> {
    let _ = request.into_body().frame().await;
    Err(io::ErrorKind::ConnectionReset.into())
}

/// The same answer, of which only half the bytes come.
async fn cut_answer(answer: Response) -> io::Result<Response> {
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if bytes.is_empty() {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let half = bytes.slice(..bytes.len() / 2);
    let mut response = hyper::Response::from_parts(parts, s3s::Body::http_body(Cut { half: Some(half) }));
    response.headers_mut().insert(hyper::header::CONTENT_LENGTH, bytes.len().into());
    Ok(response)
}

/// A body that breaks off.
struct Cut {
    half: Option<bytes::Bytes>,
}

impl hyper::body::Body for Cut {
    type Data = bytes::Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, io::Error>>> {
        let half = self.half.take().map(|half| Ok(hyper::body::Frame::data(half)));
        std::task::Poll::Ready(Some(half.unwrap_or_else(|| Err(io::ErrorKind::ConnectionReset.into()))))
    }
}
