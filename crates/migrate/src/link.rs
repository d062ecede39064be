//! Connections: Unix sockets, TCP, and TLS over TCP.
//!
//! A connection belongs to one thread, which writes and reads in turn, so that all kinds serve alike: what runs at the
//! same time has connections of its own.

mod connect;
mod files;
mod listen;
mod tls;

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use connect::{ConnectError, Connector};
pub use listen::{ListenError, Listener};
pub use tls::{Tls, TlsError, TlsFiles};

/// Bytes that are read at once, so that a message or a small frame is one system call.
const BUFFER: usize = 64 << 10;

/// A connection to the other side; what it reads is buffered.
#[derive(Debug)]
pub struct Link {
    inner: Inner,
    patience: Option<Duration>,
    read: Buffered,
}

/// Bytes that have been received and not yet been asked for.
#[derive(Debug, Default)]
struct Buffered {
    bytes: Vec<u8>,
    at: usize,
}

#[derive(Debug)]
enum Inner {
    Unix(UnixStream),
    Tcp(TcpStream),
    Client(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
    Server(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

impl Link {
    fn new(inner: Inner) -> Self {
        Self { inner, patience: None, read: Buffered::default() }
    }

    /// How long a read or a write waits for the peer.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.patience = Some(patience);
        self.wait_at_most(patience)
    }

    /// Waits for the peer as long as was [set](Self::set_patience) before [`be_patient`](Self::be_patient).
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn be_impatient(&self) -> io::Result<()> {
        self.patience.map_or(Ok(()), |patience| self.wait_at_most(patience))
    }

    fn wait_at_most(&self, patience: Duration) -> io::Result<()> {
        let patience = Some(patience.max(Duration::from_millis(1)));
        match &self.inner {
            Inner::Unix(socket) => {
                socket.set_read_timeout(patience).and_then(|()| socket.set_write_timeout(patience))
            }
            Inner::Tcp(socket) => tcp_patience(socket, patience),
            Inner::Client(tls) => tcp_patience(&tls.sock, patience),
            Inner::Server(tls) => tcp_patience(&tls.sock, patience),
        }
    }

    /// Waits for the peer without end; for a connection that another thread may [break off](Self::breaker).
    ///
    /// # Errors
    /// If the system refuses.
    pub fn be_patient(&self) -> io::Result<()> {
        match &self.inner {
            Inner::Unix(socket) => socket.set_read_timeout(None),
            Inner::Tcp(socket) => socket.set_read_timeout(None),
            Inner::Client(tls) => tls.sock.set_read_timeout(None),
            Inner::Server(tls) => tls.sock.set_read_timeout(None),
        }
    }

    /// Lets another thread end whatever this connection is waiting for.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn breaker(&self) -> io::Result<Breaker> {
        Ok(Breaker(match &self.inner {
            Inner::Unix(socket) => Socket::Unix(socket.try_clone()?),
            Inner::Tcp(socket) => Socket::Tcp(socket.try_clone()?),
            Inner::Client(tls) => Socket::Tcp(tls.sock.try_clone()?),
            Inner::Server(tls) => Socket::Tcp(tls.sock.try_clone()?),
        }))
    }

    /// Whether the peer has closed the connection, which who waits for something else does not notice.
    pub(crate) fn is_closed(&self) -> bool {
        let fd = match &self.inner {
            Inner::Unix(socket) => socket.as_fd(),
            Inner::Tcp(socket) => socket.as_fd(),
            Inner::Client(tls) => tls.sock.as_fd(),
            Inner::Server(tls) => tls.sock.as_fd(),
        };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
        let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..)) && fds[0].revents().intersects(ended)
    }

    /// A view of the connection on which everything together takes no longer than `limit`.
    pub fn until(&mut self, limit: Duration) -> Deadline<'_> {
        Deadline { link: self, end: Instant::now() + limit }
    }
}

fn tcp_patience(socket: &TcpStream, patience: Option<Duration>) -> io::Result<()> {
    socket.set_read_timeout(patience).and_then(|()| socket.set_write_timeout(patience))
}

/// Ends a connection from another thread.
#[derive(Debug)]
pub struct Breaker(Socket);

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Breaker {
    /// Ends the connection; what waits for it fails.
    pub fn break_off(&self) {
        // One that is ended already needs no ending.
        let _ = match &self.0 {
            Socket::Unix(socket) => socket.shutdown(std::net::Shutdown::Both),
            Socket::Tcp(socket) => socket.shutdown(std::net::Shutdown::Both),
        };
    }
}

impl Inner {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(bytes),
            Self::Tcp(socket) => socket.read(bytes),
            Self::Client(tls) => tls.read(bytes),
            Self::Server(tls) => tls.read(bytes),
        }
    }
}

impl Read for Link {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let waiting = self.read.bytes.len() - self.read.at;
        if waiting == 0 {
            if bytes.len() >= BUFFER {
                return self.inner.read(bytes).map_err(in_words);
            }
            self.read.at = 0;
            self.read.bytes.resize(BUFFER, 0);
            let read = self.inner.read(&mut self.read.bytes);
            self.read.bytes.truncate(read.as_ref().copied().unwrap_or_default());
            read.map_err(in_words)?;
        }
        let mut from = &self.read.bytes[self.read.at..];
        let read = from.read(bytes)?;
        self.read.at += read;
        Ok(read)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.inner {
            Inner::Unix(socket) => socket.write(bytes),
            Inner::Tcp(socket) => socket.write(bytes),
            Inner::Client(tls) => tls.write(bytes),
            Inner::Server(tls) => tls.write(bytes),
        };
        written.map_err(in_words)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match &mut self.inner {
            Inner::Unix(socket) => socket.write_vectored(parts),
            Inner::Tcp(socket) => socket.write_vectored(parts),
            Inner::Client(tls) => tls.write_vectored(parts),
            Inner::Server(tls) => tls.write_vectored(parts),
        };
        written.map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = match &mut self.inner {
            Inner::Unix(socket) => socket.flush(),
            Inner::Tcp(socket) => socket.flush(),
            Inner::Client(tls) => tls.flush(),
            Inner::Server(tls) => tls.flush(),
        };
        flushed.map_err(in_words)
    }
}

/// A timeout of a socket is `EAGAIN`, which says nothing to a person.
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "the other side does not answer")
        }
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed the connection")
        }
        _ => error,
    }
}

/// A connection on which time runs out: a peer that sends a byte now and then gains nothing by it.
#[derive(Debug)]
pub struct Deadline<'a> {
    link: &'a mut Link,
    end: Instant,
}

impl Deadline<'_> {
    fn wait(&self) -> io::Result<()> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(in_words(io::ErrorKind::WouldBlock.into()));
        }
        self.link.wait_at_most(left)
    }
}

impl Read for Deadline<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        self.link.read(bytes)
    }
}

impl Write for Deadline<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait()?;
        self.link.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wait()?;
        self.link.flush()
    }
}
