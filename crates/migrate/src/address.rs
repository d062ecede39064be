//! Where the other side is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a machine is received, or sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:PATH`: a socket in the file system.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`, in the clear: to this host itself, or where that was asked for.
    Tcp(HostPort),
    /// `tls:HOST:PORT`, with certificates on both sides.
    Tls(HostPort),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port; 0 lets the receiving side choose one.
    pub port: u16,
}

impl HostPort {
    /// Whether the host is this one by its very address. A name could be resolved to anything.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }
}

/// What is written is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address: {why}; write unix:PATH, tcp:HOST:PORT or tls:HOST:PORT")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |why| AddressError { text: text.to_owned(), why };
        let (kind, rest) = text.split_once(':').ok_or_else(|| wrong("it names no kind of connection"))?;
        match kind {
            "unix" if rest.is_empty() => Err(wrong("the path is missing")),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" => host_port(rest).map(Self::Tcp).map_err(wrong),
            "tls" => host_port(rest).map(Self::Tls).map_err(wrong),
            _ => Err(wrong("there is no such kind of connection")),
        }
    }
}

fn host_port(text: &str) -> Result<HostPort, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let port = port.parse().map_err(|_| "the port is no number from 0 to 65535")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err("the host is missing");
    }
    Ok(HostPort { host: host.to_owned(), port })
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(at) => write!(f, "tcp:{at}"),
            Self::Tls(at) => write!(f, "tls:{at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_meant() {
        for text in ["unix:/run/x.sock", "tcp:127.0.0.1:4000", "tls:example.org:1", "tcp:[::1]:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "tcp", "tcp:", "tcp:1", "tcp::1", "tcp:h:70000", "unix:", "http://x:1", "x:y:1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn loopback() {
        let of = |text: &str| HostPort { host: text.into(), port: 1 }.is_loopback();
        assert!(of("127.0.0.1") && of("::1") && of("localhost") && of("127.3.2.1"));
        assert!(!of("10.0.0.1") && !of("example.org") && !of("0.0.0.0"));
    }
}
