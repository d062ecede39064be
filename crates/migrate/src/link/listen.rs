//! Being reached by the other side.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Inner, Link, Tls};
use crate::address::{Address, HostPort};
use crate::wire::{Preamble, Role};

/// How long a peer may take until it has said who it is; others wait meanwhile.
const GREETING: Duration = Duration::from_secs(5);

/// A place at which machines arrive.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    address: Address,
    patience: Duration,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
    Tls(TcpListener, Tls),
}

/// Nothing can arrive there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// TLS without certificates.
    #[error("{0} needs certificates: give the files of an authority, a certificate and its key")]
    NoCertificates(Address),
    /// In the clear across a network.
    #[error(
        "{0} would take a guest's memory in the clear from a network: use tls:, or say that this is wanted (--insecure)"
    )]
    Insecure(Address),
    /// Another process listens there.
    #[error("another process listens at {0}; choose another address, or end it")]
    Taken(Address),
    /// The address cannot be had.
    #[error("nothing can arrive at {address}: {source}")]
    Io {
        /// The address.
        address: Address,
        /// Why.
        source: io::Error,
    },
}

impl Listener {
    /// Listens at `address`; `insecure` allows plain TCP from other hosts. A peer that says nothing for `patience` is
    /// given up.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(
        address: Address,
        tls: Option<Tls>,
        insecure: bool,
        patience: Duration,
    ) -> Result<Self, ListenError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::Taken(address.clone()),
            _ => ListenError::Io { address: address.clone(), source },
        };
        let kind = match (&address, tls) {
            (Address::Unix(path), _) => Kind::Unix(unix(path).map_err(failed)?, path.clone()),
            (Address::Tcp(at), _) if !insecure && !at.is_loopback() => {
                return Err(ListenError::Insecure(address));
            }
            (Address::Tcp(at), _) => Kind::Tcp(tcp(at).map_err(failed)?),
            (Address::Tls(at), Some(tls)) => Kind::Tls(tcp(at).map_err(failed)?, tls),
            (Address::Tls(_), None) => return Err(ListenError::NoCertificates(address)),
        };
        let address = match (&kind, address) {
            (Kind::Tcp(listener) | Kind::Tls(listener, _), Address::Tcp(at) | Address::Tls(at)) => {
                let port = listener.local_addr().map_or(at.port, |local| local.port());
                let at = HostPort { port, ..at };
                if matches!(kind, Kind::Tcp(_)) { Address::Tcp(at) } else { Address::Tls(at) }
            }
            (_, address) => address,
        };
        Ok(Self { kind, address, patience })
    }

    /// Where it listens; a port that was left open is the one that was chosen.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection, greeted; `None` if none has come within `wait`, or one came that is no peer, which is logged.
    ///
    /// # Errors
    /// If the socket itself fails.
    pub fn accept(&self, wait: Duration) -> io::Result<Option<(Link, Role, u16)>> {
        let Some(mut link) = self.next(wait)? else { return Ok(None) };
        let mut limited = link.until(GREETING);
        let greeted = Preamble::receive(&mut limited).and_then(|theirs| {
            let ours = Preamble::ours(theirs.role);
            // Also where there is no version in common: the peer is to learn why.
            ours.send(&mut limited)?;
            Ok((theirs.role, ours.agree(&theirs)?))
        });
        match greeted {
            Ok((role, version)) => {
                link.set_patience(self.patience)?;
                Ok(Some((link, role, version)))
            }
            Err(error) => {
                tracing::warn!(%error, address = %self.address, "a connection was turned away");
                Ok(None)
            }
        }
    }

    fn next(&self, wait: Duration) -> io::Result<Option<Link>> {
        if !self.is_ready(wait)? {
            return Ok(None);
        }
        let accepted = match &self.kind {
            Kind::Unix(listener, _) => listener
                .accept()
                .map(|(socket, _)| socket.set_nonblocking(false).map(|()| Inner::Unix(socket))),
            Kind::Tcp(listener) => listener.accept().map(|(socket, _)| {
                socket.set_nonblocking(false)?;
                socket.set_nodelay(true)?;
                Ok(Inner::Tcp(socket))
            }),
            Kind::Tls(listener, tls) => listener.accept().map(|(socket, _)| {
                socket.set_nonblocking(false)?;
                socket.set_nodelay(true)?;
                let server = rustls::ServerConnection::new(Arc::clone(&tls.server));
                let server = server.map_err(io::Error::other)?;
                Ok(Inner::Server(Box::new(rustls::StreamOwned::new(server, socket))))
            }),
        };
        match accepted {
            Ok(inner) => Ok(Some(Link::new(inner?))),
            // Whoever knocked has left again.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn is_ready(&self, wait: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self, PollFlags::IN)];
        let wait = Timespec::try_from(wait).ok();
        match poll(&mut fds, wait.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Unix(listener, _) => listener.as_fd(),
            Kind::Tcp(listener) | Kind::Tls(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Kind::Unix(_, path) = &self.kind {
            // One that somebody removed is gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that a dead process left is replaced; one that somebody answers at is not.
fn unix(path: &std::path::Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)?
                }
                _ => return Err(error),
            }
        }
        other => other?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn tcp(at: &HostPort) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((at.host.as_str(), at.port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
