//! Reaching the other side.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::{Inner, Link, Tls};
use crate::address::{Address, HostPort};
use crate::wire::{Preamble, PreambleError, Role};

/// How long a connection may take until both sides know who they are.
const GREETING: Duration = Duration::from_secs(5);

/// Makes connections to one address.
#[derive(Clone, Debug)]
pub struct Connector {
    address: Address,
    tls: Option<Tls>,
    patience: Duration,
}

/// The other side cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TLS without certificates.
    #[error("{0} needs certificates: give the files of an authority, a certificate and its key")]
    NoCertificates(Address),
    /// In the clear across a network.
    #[error(
        "{0} would send the guest's memory in the clear across a network: use tls:, or say that this is wanted (--insecure)"
    )]
    Insecure(Address),
    /// No such host.
    #[error("{0} names no host")]
    Host(Address),
    /// Nothing answers, or the connection broke.
    #[error("{address} cannot be reached: {source}")]
    Io {
        /// The address.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// What answers is no peer.
    #[error("{address}: {source}")]
    Greeting {
        /// The address.
        address: Address,
        /// Why.
        source: PreambleError,
    },
}

impl Connector {
    /// For `address`; `insecure` allows plain TCP to other hosts. A peer that says nothing for `patience` is given up.
    ///
    /// # Errors
    /// If the address needs what is not given.
    pub fn new(
        address: Address,
        tls: Option<Tls>,
        insecure: bool,
        patience: Duration,
    ) -> Result<Self, ConnectError> {
        match &address {
            Address::Tls(_) if tls.is_none() => Err(ConnectError::NoCertificates(address)),
            Address::Tcp(at) if !insecure && !at.is_loopback() => Err(ConnectError::Insecure(address)),
            _ => Ok(Self { address, tls, patience }),
        }
    }

    /// Where to.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A connection for `role`, greeted, and the version both sides speak.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(&self, role: Role) -> Result<(Link, u16), ConnectError> {
        let io = |source| ConnectError::Io { address: self.address.clone(), source };
        let mut link = Link::new(match &self.address {
            Address::Unix(path) => Inner::Unix(UnixStream::connect(path).map_err(io)?),
            Address::Tcp(at) => Inner::Tcp(tcp(at).map_err(io)?),
            Address::Tls(at) => {
                let tls = self.tls.as_ref();
                let tls = tls.ok_or_else(|| ConnectError::NoCertificates(self.address.clone()))?;
                let name = ServerName::try_from(at.host.clone());
                let name = name.map_err(|_| ConnectError::Host(self.address.clone()))?;
                let client = rustls::ClientConnection::new(Arc::clone(&tls.client), name);
                let client = client.map_err(|error| io(io::Error::other(error)))?;
                Inner::Client(Box::new(rustls::StreamOwned::new(client, tcp(at).map_err(io)?)))
            }
        });
        let greeting = |source| ConnectError::Greeting { address: self.address.clone(), source };
        let ours = Preamble::ours(role);
        let mut limited = link.until(GREETING);
        ours.send(&mut limited).map_err(io)?;
        let theirs = Preamble::receive(&mut limited).map_err(greeting)?;
        let version = ours.agree(&theirs).map_err(greeting)?;
        link.set_patience(self.patience).map_err(io)?;
        Ok((link, version))
    }
}

fn tcp(at: &HostPort) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (at.host.as_str(), at.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, GREETING) {
            Ok(socket) => {
                // A commit is a few bytes and is waited for.
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
