//! The messages of the control connection, as CBOR.

use std::fmt;
use std::io::{Read, Write};

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable, SlotTableError};
use serde::{Deserialize, Serialize};

use super::frame::{self, FrameError, Kind};

/// Most memslots of an offer; KVM's machines have a handful.
const MOST_SLOTS: usize = 512;

/// Tells one migration from every other: random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Session([u8; 16]);

impl Session {
    /// A session that nobody has seen.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Self(bytes))
    }

    /// As a number.
    pub(crate) const fn number(self) -> u128 {
        u128::from_le_bytes(self.0)
    }

    /// Eight of its bytes, which are random as all are.
    pub(crate) fn half(self) -> u64 {
        let (halves, _) = self.0.as_chunks::<8>();
        u64::from_le_bytes(halves[0])
    }

    #[cfg(test)]
    pub(crate) const fn of(byte: u8) -> Self {
        Self([byte; 16])
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How the bytes of a run of pages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// Pages of zeros: no bytes.
    Zero,
    /// Pages of one 64-bit word repeated: eight bytes.
    Word,
    /// As they are.
    Raw,
    /// One LZ4 block.
    Lz4,
    /// One zstd frame.
    Zstd,
    /// The difference (exclusive or) to what the destination holds, as one LZ4 block.
    Delta,
}

/// What leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// This migration.
    pub session: Session,
    /// The machine's name.
    pub name: String,
    /// `kvm` or `engine`.
    pub hypervisor: String,
    /// `x86_64` and the like.
    pub architecture: String,
    /// vCPUs.
    pub vcpus: u32,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Guest memory.
    pub slots: Vec<OfferedSlot>,
    /// What the machine has to find at the destination, in the words of the monitor.
    #[serde(with = "bytes")]
    pub needs: Vec<u8>,
    /// The encodings that the source may use.
    pub encodings: Vec<Encoding>,
    /// Connections for pages.
    pub streams: u16,
    /// Whether the whole of memory is compared before the guest runs.
    pub verify_full: bool,
    /// The session whose link was cut and whose pages the destination may still hold: only what was not confirmed, or was
    /// written since, is sent if it does.
    #[serde(default)]
    pub resume: Option<Session>,
    /// Whether the source compares pages with what the destination has of an old image, if it has.
    #[serde(default)]
    pub takes_hashes: bool,
    /// Whether memory may be had as a file instead of page by page: see [`Message::MemoryFile`].
    #[serde(default)]
    pub has_memory_file: bool,
}

/// A memslot of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedSlot {
    /// Its number, address space included.
    pub id: u32,
    /// Its first frame.
    pub base: u64,
    /// Its pages.
    pub npages: u64,
}

/// An offer that makes no sense, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// A page size that is none.
    #[error("it offers pages of {0} bytes, which is no page size")]
    PageSize(u64),
    /// More memslots than any machine has.
    #[error("it offers {0} memslots; a machine has at most {MOST_SLOTS}")]
    Slots(usize),
    /// Memslots that cannot be.
    #[error("it offers memory that cannot be: {0}")]
    Memory(#[from] SlotTableError),
}

impl Offer {
    /// The page size and the memslots.
    ///
    /// # Errors
    /// If they are none that a machine can have.
    pub fn memory(&self) -> Result<(PageSize, SlotTable), OfferError> {
        let page_size = PageSize::new(self.page_bytes).ok_or(OfferError::PageSize(self.page_bytes))?;
        if self.slots.len() > MOST_SLOTS {
            return Err(OfferError::Slots(self.slots.len()));
        }
        let slots = self.slots.iter().map(|slot| Memslot {
            id: SlotId::from_raw(slot.id),
            base: Gfn(slot.base),
            npages: slot.npages,
        });
        Ok((page_size, SlotTable::new(slots)?))
    }
}

/// Why an offer is not taken. No page has been sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}{}", advice.as_deref().map(|advice| format!("; {advice}")).unwrap_or_default())]
pub struct Refusal {
    /// What stands in the way.
    pub what: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// What became of a session at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// This process never heard of it.
    Unknown,
    /// It is still arriving.
    Receiving,
    /// All is there and nothing runs: the source decides.
    Prepared,
    /// The guest runs here.
    Running,
    /// It was given up, and never runs here.
    Discarded,
}

/// How the destination spent the time in which no guest ran, in nanoseconds of its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Until the last pages were in memory.
    pub pages: u64,
    /// Comparing digests.
    pub digest: u64,
    /// Loading the state of the machine.
    pub load: u64,
}

/// Pages that a destination has of an old image of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// How many.
    pub pages: u64,
    /// Of the hashes: random, so that nobody who wrote the pages knew it.
    pub key: u64,
}

/// Hashes of consecutive pages of a memslot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// The memslot, address space included.
    pub slot: u32,
    /// The first page, counted from the slot's start.
    pub first: u64,
    /// Eight bytes a page.
    #[serde(with = "bytes")]
    pub hashes: Vec<u8>,
}

/// A message. Those above the line are the source's, those below it the destination's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The first message: what leaves.
    Offer(Box<Offer>),
    /// The guest is stopped and everything was sent: make it ready to run, and do not let it run.
    Prepare {
        /// The state of the machine.
        #[serde(with = "bytes")]
        state: Vec<u8>,
        /// One number over every page that was sent, as it was sent last.
        digest: u64,
        /// One number over the whole of memory, where that is asked for.
        full_digest: Option<u64>,
        /// Each stream ends with a barrier that says so: what comes before it is still to be waited for.
        #[serde(default)]
        ends_streams: bool,
    },
    /// Let it run: the source never will again.
    Commit {
        /// The session.
        session: Session,
    },
    /// The source keeps the guest.
    Abort {
        /// The session.
        session: Session,
        /// Why.
        reason: String,
    },
    /// What became of it?
    Ask {
        /// The session.
        session: Session,
    },
    /// The memory itself: its file comes as the one descriptor beside this message (`SCM_RIGHTS`), with the memslots of the
    /// offer one behind the other, in their order.
    MemoryFile {
        /// Bytes of all of them.
        bytes: u64,
    },

    /// The memory file that was offered is wanted; an answer to the offer follows it.
    WantMemoryFile,
    /// The offer is taken; pages may come.
    Accept {
        /// The encodings that may be used.
        encodings: Vec<Encoding>,
        /// Connections for pages.
        streams: u16,
        /// What a stream says to prove that it belongs to this session.
        token: Session,
        /// What was held of the session that was offered to be resumed is here.
        #[serde(default)]
        resumed: bool,
        /// Streams may end with a barrier that is not sent back.
        #[serde(default)]
        ends_streams: bool,
        /// Seconds for which what has arrived is kept if the link is lost.
        #[serde(default)]
        keeps: u64,
        /// What is here of an old image of the machine; the hashes follow.
        #[serde(default)]
        seed: Option<Seed>,
        /// The memory file is mapped here: there are no streams, and no page is sent.
        #[serde(default)]
        maps_memory_file: bool,
        /// Why it is not, where one was offered.
        #[serde(default)]
        no_memory_file: Option<String>,
    },
    /// Pages of the old image: their hashes.
    Hashes(Hashes),
    /// The offer is not taken.
    Refuse(Refusal),
    /// The first words of a stream, from the source.
    Join {
        /// As it was accepted.
        token: Session,
    },
    /// All is in place; the guest waits for the commit.
    Prepared(Prepared),
    /// It cannot be made ready here; nothing runs here, now or later.
    Failed {
        /// Why.
        reason: String,
    },
    /// The guest runs here.
    Running {
        /// Nanoseconds from the commit until the first vCPU entered the guest.
        resume: u64,
        /// Nanoseconds that the guest had run when this was sent; 0 if that is not known.
        #[serde(default)]
        since: u64,
    },
    /// The answer to a question.
    Standing(Standing),
}

/// A message could not be received.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The frame was not right.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame held no message.
    #[error("the peer sent a message that is none of this protocol's: {0}")]
    Content(String),
}

impl From<std::io::Error> for MessageError {
    fn from(error: std::io::Error) -> Self {
        Self::Frame(error.into())
    }
}

impl Message {
    /// What it is called in a message to people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Offer(_) => "offer",
            Self::Prepare { .. } => "prepare",
            Self::Commit { .. } => "commit",
            Self::Abort { .. } => "abort",
            Self::Ask { .. } => "ask",
            Self::MemoryFile { .. } => "memory-file",
            Self::WantMemoryFile => "want-memory-file",
            Self::Accept { .. } => "accept",
            Self::Hashes(_) => "hashes",
            Self::Refuse(_) => "refuse",
            Self::Join { .. } => "join",
            Self::Prepared(_) => "prepared",
            Self::Failed { .. } => "failed",
            Self::Running { .. } => "running",
            Self::Standing(_) => "standing",
        }
    }

    /// Sends it.
    ///
    /// # Errors
    /// If the connection fails, or it is larger than a frame.
    pub fn send(&self, to: &mut (impl Write + ?Sized)) -> std::io::Result<()> {
        let mut payload = Vec::new();
        ciborium::into_writer(self, &mut payload).map_err(std::io::Error::other)?;
        frame::send(to, Kind::Message, &payload)?;
        to.flush()
    }

    /// Receives one.
    ///
    /// # Errors
    /// [`MessageError`]; the connection is of no use after one.
    pub fn receive(from: &mut (impl Read + ?Sized)) -> Result<Self, MessageError> {
        Self::decode(&frame::expect(from, Kind::Message)?)
    }

    /// The message that is all of `payload`.
    ///
    /// # Errors
    /// [`MessageError::Content`].
    pub fn decode(mut payload: &[u8]) -> Result<Self, MessageError> {
        let message =
            ciborium::from_reader(&mut payload).map_err(|error| MessageError::Content(error.to_string()))?;
        if payload.is_empty() {
            Ok(message)
        } else {
            Err(MessageError::Content(format!("{} bytes follow it", payload.len())))
        }
    }
}

/// Bytes as one CBOR byte string.
mod bytes {
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer() -> Offer {
        Offer {
            session: Session::of(7),
            name: "vm1".into(),
            hypervisor: "kvm".into(),
            architecture: "x86_64".into(),
            vcpus: 2,
            page_bytes: 4096,
            slots: vec![OfferedSlot { id: 0, base: 0, npages: 65_536 }],
            needs: vec![1, 2, 3],
            encodings: vec![Encoding::Raw, Encoding::Delta],
            streams: 2,
            verify_full: false,
            resume: Some(Session::of(3)),
            takes_hashes: true,
            has_memory_file: true,
        }
    }

    fn all() -> Vec<Message> {
        let session = Session::of(9);
        let refusal = Refusal { what: "no".into(), advice: Some("ask elsewhere".into()) };
        vec![
            Message::Offer(Box::new(offer())),
            Message::Prepare { state: vec![0; 1000], digest: 5, full_digest: Some(6), ends_streams: true },
            Message::Commit { session },
            Message::Abort { session, reason: "cancelled".into() },
            Message::Ask { session },
            Message::MemoryFile { bytes: 1 << 30 },
            Message::WantMemoryFile,
            Message::Accept {
                encodings: vec![Encoding::Zero],
                streams: 1,
                token: session,
                resumed: true,
                ends_streams: true,
                keeps: 60,
                seed: Some(Seed { pages: 1, key: 2 }),
                maps_memory_file: true,
                no_memory_file: Some("another user".into()),
            },
            Message::Hashes(Hashes { slot: 0, first: 5, hashes: vec![1; 8] }),
            Message::Refuse(refusal),
            Message::Join { token: session },
            Message::Prepared(Prepared { pages: 1, digest: 2, load: 3 }),
            Message::Failed { reason: "no memory".into() },
            Message::Running { resume: 4, since: 5 },
            Message::Standing(Standing::Prepared),
        ]
    }

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        for message in all() {
            let mut bytes = Vec::new();
            message.send(&mut bytes).unwrap();
            assert_eq!(Message::receive(&mut bytes.as_slice()).unwrap(), message);
        }
    }

    #[test]
    fn what_an_older_peer_does_not_say_is_nothing() {
        let mut bytes = Vec::new();
        ciborium::into_writer(&all()[7], &mut bytes).unwrap();
        let mut value: ciborium::Value = ciborium::from_reader(bytes.as_slice()).unwrap();
        let accept = value.as_map_mut().unwrap()[0].1.as_map_mut().unwrap();
        accept.retain(|(name, _)| ["encodings", "streams", "token"].contains(&name.as_text().unwrap()));
        let mut old = Vec::new();
        ciborium::into_writer(&value, &mut old).unwrap();
        let accept = Message::decode(&old).unwrap();
        let nothing = Message::Accept {
            encodings: vec![Encoding::Zero],
            streams: 1,
            token: Session::of(9),
            resumed: false,
            ends_streams: false,
            keeps: 0,
            seed: None,
            maps_memory_file: false,
            no_memory_file: None,
        };
        assert_eq!(accept, nothing);
    }

    #[test]
    fn an_offer_of_impossible_memory_is_refused() {
        assert!(offer().memory().is_ok());
        let with = |change: &dyn Fn(&mut Offer)| {
            let mut offer = offer();
            change(&mut offer);
            offer.memory().unwrap_err()
        };
        assert_eq!(with(&|o| o.page_bytes = 5000), OfferError::PageSize(5000));
        assert_eq!(with(&|o| o.page_bytes = 0), OfferError::PageSize(0));
        assert!(matches!(with(&|o| o.slots[0].npages = u64::MAX), OfferError::Memory(_)));
        assert!(matches!(with(&|o| o.slots.push(o.slots[0])), OfferError::Memory(_)));
        assert!(matches!(with(&|o| o.slots = vec![o.slots[0]; 1000]), OfferError::Slots(1000)));
    }

    proptest! {
        #[test]
        fn damaged_messages_do_no_harm(
            which in 0..13_usize,
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut payload = Vec::new();
            ciborium::into_writer(&all()[which], &mut payload).unwrap();
            let at = at.index(payload.len());
            payload[at] = byte;
            if let Ok(Message::Offer(offer)) = Message::decode(&payload) {
                let _ = offer.memory();
            }
            let _ = Message::decode(&payload[..at]);
        }
    }
}
