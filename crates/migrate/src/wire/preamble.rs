//! The first bytes of a connection: which protocol, which of its versions, what for.

use std::io::{self, Read, Write};
use std::ops::RangeInclusive;

/// `RINGMIG` and a line feed, which a transport that mangles text would not leave alone.
const MAGIC: [u8; 8] = *b"RINGMIG\n";
/// Bytes of a preamble.
const LENGTH: usize = 16;

/// The versions of the protocol that this side speaks: the newest, and the one before it once there is one. Zero is
/// never valid.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Messages; the first connection of a migration.
    Control,
    /// Pages.
    Stream,
    /// A question about how a migration ended.
    Inquiry,
}

impl Role {
    const fn number(self) -> u32 {
        match self {
            Self::Control => 1,
            Self::Stream => 2,
            Self::Inquiry => 3,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::Stream),
            3 => Some(Self::Inquiry),
            _ => None,
        }
    }
}

/// One side's first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The versions it speaks.
    pub versions: RangeInclusive<u16>,
    /// What it opened the connection for; the other side repeats it.
    pub role: Role,
}

/// The peer cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum PreambleError {
    /// The connection failed.
    #[error("the connection failed before the peer had said who it is: {0}")]
    Io(#[from] io::Error),
    /// Something else answers there.
    #[error("what answers there is no ringmark: it began with {0:02x?}")]
    Foreign([u8; 8]),
    /// A version zero, or a lowest above the highest.
    #[error("the peer claims to speak versions {0} to {1}, which is no range")]
    Range(u16, u16),
    /// No version in common.
    #[error(
        "the peer speaks versions {} to {} of the protocol and this side {} to {}: bring both to releases that are next to \
         each other",
        theirs.start(), theirs.end(), ours.start(), ours.end()
    )]
    Versions {
        /// What the peer speaks.
        theirs: RangeInclusive<u16>,
        /// What this side speaks.
        ours: RangeInclusive<u16>,
    },
    /// A purpose that this version does not know.
    #[error("the peer opened a connection of unknown purpose {0}")]
    Role(u32),
}

impl Preamble {
    /// What this side sends.
    #[must_use]
    pub const fn ours(role: Role) -> Self {
        Self { versions: VERSIONS, role }
    }

    /// Sends it.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn send(&self, to: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.versions.start().to_le_bytes());
        bytes[10..12].copy_from_slice(&self.versions.end().to_le_bytes());
        bytes[12..].copy_from_slice(&self.role.number().to_le_bytes());
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Receives the peer's.
    ///
    /// # Errors
    /// [`PreambleError`], except that versions are not compared.
    pub fn receive(from: &mut (impl Read + ?Sized)) -> Result<Self, PreambleError> {
        let mut magic = [0; 8];
        from.read_exact(&mut magic)?;
        // Before the rest is waited for: a peer of another kind may have nothing more to say.
        if magic != MAGIC {
            return Err(PreambleError::Foreign(magic));
        }
        let mut rest = [0; LENGTH - 8];
        from.read_exact(&mut rest)?;
        let (lowest, highest) =
            (u16::from_le_bytes([rest[0], rest[1]]), u16::from_le_bytes([rest[2], rest[3]]));
        if lowest == 0 || lowest > highest {
            return Err(PreambleError::Range(lowest, highest));
        }
        let role = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
        let role = Role::from_number(role).ok_or(PreambleError::Role(role))?;
        Ok(Self { versions: lowest..=highest, role })
    }

    /// The version that both sides use: the highest that both speak.
    ///
    /// # Errors
    /// [`PreambleError::Versions`] if there is none.
    pub fn agree(&self, with: &Self) -> Result<u16, PreambleError> {
        let version = *self.versions.end().min(with.versions.end());
        if version < *self.versions.start() || version < *with.versions.start() {
            return Err(PreambleError::Versions {
                theirs: with.versions.clone(),
                ours: self.versions.clone(),
            });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaking(versions: RangeInclusive<u16>) -> Preamble {
        Preamble { versions, role: Role::Control }
    }

    #[test]
    fn the_highest_common_version_is_used() {
        for (ours, theirs, agreed) in [(1..=2, 2..=3, Some(2)), (2..=3, 1..=2, Some(2)), (1..=1, 2..=3, None)]
        {
            let (ours, theirs) = (speaking(ours), speaking(theirs));
            assert_eq!(ours.agree(&theirs).ok(), agreed);
            assert_eq!(theirs.agree(&ours).ok(), agreed);
        }
    }

    #[test]
    fn what_was_sent_is_received_and_nothing_else_is() {
        for role in [Role::Control, Role::Stream, Role::Inquiry] {
            let mut bytes = Vec::new();
            Preamble::ours(role).send(&mut bytes).unwrap();
            assert_eq!(Preamble::receive(&mut bytes.as_slice()).unwrap(), Preamble::ours(role));
            for at in 0..bytes.len() {
                let mut cut = &bytes[..at];
                assert!(matches!(Preamble::receive(&mut cut), Err(PreambleError::Io(_))));
            }
        }
        let http = b"GET / HTTP/1.1\r\n\r\n";
        assert!(matches!(Preamble::receive(&mut http.as_slice()), Err(PreambleError::Foreign(_))));
        let mut zero = Vec::new();
        speaking(0..=1).send(&mut zero).unwrap();
        assert!(matches!(Preamble::receive(&mut zero.as_slice()), Err(PreambleError::Range(0, 1))));
    }
}
