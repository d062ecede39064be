//! Frames: a kind, a length, a checksum, and a payload.

use std::io::{self, IoSlice, Read, Write};

use twox_hash::XxHash3_64;

/// Bytes before the payload.
const HEADER: usize = 16;

/// What a frame holds. Zero is never valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message of the control connection.
    Message,
    /// A run of pages.
    Pages,
    /// What a stream has taken so far.
    Acknowledgement,
    /// The end of what a stream carries before a barrier.
    Barrier,
}

impl Kind {
    const fn number(self) -> u32 {
        match self {
            Self::Message => 1,
            Self::Pages => 2,
            Self::Acknowledgement => 3,
            Self::Barrier => 4,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Message),
            2 => Some(Self::Pages),
            3 => Some(Self::Acknowledgement),
            4 => Some(Self::Barrier),
            _ => None,
        }
    }

    /// The longest payload in bytes: what a peer can make this side allocate.
    #[must_use]
    pub const fn most(self) -> usize {
        match self {
            Self::Message => 64 << 20,
            Self::Pages => 1 << 20,
            Self::Acknowledgement | Self::Barrier => 8,
        }
    }
}

/// In a barrier: nothing follows it on this stream, and it is not sent back. Only where that was agreed.
pub const LAST: u64 = 1 << 63;

/// A frame as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A frame could not be received.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// A kind that there is not.
    #[error("the peer sent a frame of unknown kind {0}")]
    Kind(u32),
    /// Longer than a frame of its kind may be.
    #[error("the peer announced {length} bytes of a {kind:?} frame, which has at most {}", kind.most())]
    Length {
        /// The kind.
        kind: Kind,
        /// The announced length.
        length: u32,
    },
    /// The payload is not what was sent.
    #[error("a {kind:?} frame of {length} bytes was damaged on its way")]
    Checksum {
        /// The kind.
        kind: Kind,
        /// Its length.
        length: usize,
    },
    /// Another kind than the one whose turn it is.
    #[error("the peer sent a {found:?} frame where a {expected:?} frame was due")]
    Unexpected {
        /// The kind that came.
        found: Kind,
        /// The one that was due.
        expected: Kind,
    },
}

/// Sends a frame; the caller flushes.
///
/// # Errors
/// If the connection fails, or `payload` is longer than a frame of this kind may be.
pub fn send(to: &mut (impl Write + ?Sized), kind: Kind, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= kind.most());
    let length = length.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} bytes are too many for a frame", payload.len()),
        )
    })?;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&kind.number().to_le_bytes());
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..].copy_from_slice(&check(kind, payload).to_le_bytes());
    // In one go where the connection can: a message is one system call and one segment.
    let mut parts = &mut [IoSlice::new(&header), IoSlice::new(payload)][..];
    while !parts.is_empty() {
        match to.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut parts, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives a frame into `payload`, whose memory is used again, and returns its kind.
///
/// # Errors
/// [`FrameError`]; nothing can be received from the connection after one.
pub fn receive_into(from: &mut (impl Read + ?Sized), payload: &mut Vec<u8>) -> Result<Kind, FrameError> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let kind = Kind::from_number(word(0)).ok_or(FrameError::Kind(word(0)))?;
    let length = word(4);
    let bytes = usize::try_from(length).ok().filter(|length| *length <= kind.most());
    let bytes = bytes.ok_or(FrameError::Length { kind, length })?;
    payload.clear();
    // By what arrives, not by what is announced.
    let read = from.take(bytes as u64).read_to_end(payload)?;
    if read < bytes {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let expected = u64::from(word(8)) | u64::from(word(12)) << 32;
    if check(kind, payload) != expected {
        return Err(FrameError::Checksum { kind, length: bytes });
    }
    Ok(kind)
}

/// Receives a frame.
///
/// # Errors
/// As [`receive_into`].
pub fn receive(from: &mut (impl Read + ?Sized)) -> Result<Frame, FrameError> {
    let mut payload = Vec::new();
    let kind = receive_into(from, &mut payload)?;
    Ok(Frame { kind, payload })
}

/// Receives a frame that has to be of `expected`.
///
/// # Errors
/// As [`receive_into`], and for any other kind.
pub fn expect(from: &mut (impl Read + ?Sized), expected: Kind) -> Result<Vec<u8>, FrameError> {
    let Frame { kind, payload } = receive(from)?;
    if kind != expected {
        return Err(FrameError::Unexpected { found: kind, expected });
    }
    Ok(payload)
}

fn check(kind: Kind, payload: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(u64::from(kind.number()), payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, kind, payload).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn what_was_sent_is_received(payload in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let bytes = sent(Kind::Message, &payload);
            prop_assert_eq!(receive(&mut bytes.as_slice()).unwrap(), Frame { kind: Kind::Message, payload });
        }

        #[test]
        fn a_byte_that_changed_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 1..256),
            at in any::<prop::sample::Index>(),
            flip in 1..=u8::MAX,
        ) {
            let mut bytes = sent(Kind::Pages, &payload);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(receive(&mut bytes.as_slice()).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = receive(&mut bytes.as_slice());
        }
    }

    #[test]
    fn a_length_is_no_reason_to_allocate() {
        let mut bytes = sent(Kind::Message, b"");
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(receive(&mut bytes.as_slice()), Err(FrameError::Length { .. })));
        bytes[4..8].copy_from_slice(&(64_u32 << 20).to_le_bytes());
        let mut payload = Vec::new();
        assert!(receive_into(&mut bytes.as_slice(), &mut payload).is_err());
        assert!(payload.capacity() < 1 << 20);
    }

    #[test]
    fn a_frame_that_is_not_due() {
        let bytes = sent(Kind::Barrier, &[0; 8]);
        let error = expect(&mut bytes.as_slice(), Kind::Message).unwrap_err();
        assert!(matches!(error, FrameError::Unexpected { found: Kind::Barrier, expected: Kind::Message }));
    }
}
