//! Connections: Unix sockets, TCP, and TLS over TCP.
//!
//! A connection belongs to one thread, which writes and reads in turn, so that all kinds serve alike: what runs at the
//! same time has connections of its own.

mod connect;
mod listen;
mod tls;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub use connect::{ConnectError, Connector};
pub use listen::{ListenError, Listener};
pub use tls::{Tls, TlsError, TlsFiles};

/// A connection to the other side.
#[derive(Debug)]
pub struct Link(Inner);

#[derive(Debug)]
enum Inner {
    Unix(UnixStream),
    Tcp(TcpStream),
    Client(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
    Server(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

impl Link {
    /// How long a read or a write waits for the peer.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let patience = Some(patience.max(Duration::from_millis(1)));
        match &self.0 {
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
        match &self.0 {
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
        Ok(Breaker(match &self.0 {
            Inner::Unix(socket) => Socket::Unix(socket.try_clone()?),
            Inner::Tcp(socket) => Socket::Tcp(socket.try_clone()?),
            Inner::Client(tls) => Socket::Tcp(tls.sock.try_clone()?),
            Inner::Server(tls) => Socket::Tcp(tls.sock.try_clone()?),
        }))
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

impl Read for Link {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.0 {
            Inner::Unix(socket) => socket.read(bytes),
            Inner::Tcp(socket) => socket.read(bytes),
            Inner::Client(tls) => tls.read(bytes),
            Inner::Server(tls) => tls.read(bytes),
        };
        read.map_err(in_words)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.0 {
            Inner::Unix(socket) => socket.write(bytes),
            Inner::Tcp(socket) => socket.write(bytes),
            Inner::Client(tls) => tls.write(bytes),
            Inner::Server(tls) => tls.write(bytes),
        };
        written.map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = match &mut self.0 {
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
        self.link.set_patience(left)
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
