//! The server: a thread that owns the socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::UnixListener;
use tokio::runtime;
use tokio::sync::oneshot;

use crate::socket::{self, SocketFile};
use crate::{BindError, Service, connection, routes};

/// Calls of the service at a time; more wait.
const CALLS: usize = 16;

/// A served socket.
///
/// Dropping it ends the service: nobody is accepted any more, answers under way have a second to reach their clients,
/// and the socket is removed. Calls of the service that still run are not waited for.
#[derive(Debug)]
pub struct Server {
    // Fields drop in this order, after the thread has ended.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    file: SocketFile,
}

impl Server {
    /// Makes the socket at `path` and serves `service` on it from a thread of its own. The directory is made if it is
    /// not there. A socket that a dead process left is replaced.
    ///
    /// # Errors
    /// A path that is taken, is no socket, or is too long; a directory that others may enter; or the system's refusal.
    pub fn bind(path: impl Into<PathBuf>, service: Arc<dyn Service>) -> Result<Self, BindError> {
        let path = path.into();
        let (listener, file) = socket::listen(&path)?;
        listener.set_nonblocking(true).map_err(BindError::io("making non-blocking", &path))?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(CALLS)
            .thread_name("control-call")
            .build()
            .map_err(BindError::io("starting a runtime for", &path))?;
        let listener = {
            let _context = runtime.enter();
            UnixListener::from_std(listener).map_err(BindError::io("watching", &path))?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                runtime.block_on(connection::serve(listener, routes::router(service), stopped));
                runtime.shutdown_background();
            })
            .map_err(BindError::io("starting a thread for", &path))?;
        Ok(Self { stop: Some(stop), thread: Some(thread), file })
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Ends the service as dropping does.
    pub fn shutdown(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A thread that has ended already has nothing to stop.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(socket = %self.file.path().display(), "the thread of the control socket panicked");
        }
    }
}
