//! The wire between who brings a shared memory and one of the machines that share it.
//!
//! One message a packet. The first one comes from who brings it, is [`Message::Welcome`] and has the memory file with it;
//! then a machine wants pages, and is told when they are there and how it ends. Both ends are this program.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ringmark_dirty::SlotId;
use ringmark_image::ImageId;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The longest message.
const MAX: usize = 4096;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// What the memory is of, and whether all of it is there.
    Welcome { image: ImageId, whole: bool },
    /// A machine waits for a page.
    Want(SlotId, u64),
    /// The memory file has the page.
    Here(SlotId, u64),
    /// The memory file has every page that is not zero.
    Whole,
    /// A page cannot be had.
    Failed(String),
}

/// One end.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Both ends.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: ours }, theirs))
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends without waiting: an end that does not read is no reason to wait.
    pub(super) fn send(&self, message: &Message, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = message.encode();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files: &[_] = &file.map_or_else(Vec::new, |file| vec![file]);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::other("there is no room for a descriptor in a message"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
        Ok(())
    }

    /// The next message and the descriptor that came with it; waits for one unless `wait` is off, and then fails with
    /// [`io::ErrorKind::WouldBlock`]. An end that is gone is [`io::ErrorKind::UnexpectedEof`].
    pub(super) fn receive(&self, wait: bool) -> io::Result<(Message, Option<OwnedFd>)> {
        let mut bytes = [0; MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let received = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                received => break received?,
            }
        };
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = bytes.get(..received.bytes).and_then(Message::decode);
        Ok((message.ok_or(io::ErrorKind::InvalidData)?, file))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let page = |tag, slot: &SlotId, offset: &u64| {
            let mut bytes = vec![tag];
            bytes.extend(slot.raw().to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            bytes
        };
        match self {
            Self::Welcome { image, whole } => {
                let mut bytes = vec![1, u8::from(*whole)];
                bytes.extend(image.to_hex().bytes());
                bytes
            }
            Self::Want(slot, offset) => page(2, slot, offset),
            Self::Here(slot, offset) => page(3, slot, offset),
            Self::Whole => vec![4],
            Self::Failed(why) => {
                let mut bytes = vec![5];
                bytes.extend(why.bytes().take(MAX - 1));
                bytes
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        let page = || {
            let (slot, offset) = rest.split_first_chunk()?;
            let offset = u64::from_le_bytes(offset.try_into().ok()?);
            Some((SlotId::from_raw(u32::from_le_bytes(*slot)), offset))
        };
        match (tag, rest) {
            (1, [whole @ 0..=1, image @ ..]) => {
                let image = std::str::from_utf8(image).ok()?.parse().ok()?;
                Some(Self::Welcome { image, whole: *whole == 1 })
            }
            (2, _) => page().map(|(slot, offset)| Self::Want(slot, offset)),
            (3, _) => page().map(|(slot, offset)| Self::Here(slot, offset)),
            (4, []) => Some(Self::Whole),
            (5, why) => Some(Self::Failed(String::from_utf8_lossy(why).into_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let (ours, theirs) = Link::pair().unwrap();
        let theirs = Link::new(theirs);
        let image: ImageId = "5c".repeat(32).parse().unwrap();
        let page = (SlotId::new(1, 7), 1 << 40);
        let messages = [
            Message::Welcome { image, whole: false },
            Message::Want(page.0, page.1),
            Message::Here(page.0, page.1),
            Message::Whole,
            Message::Failed("é".repeat(5000)),
        ];
        for message in &messages {
            ours.send(message, None).unwrap();
            let (received, file) = theirs.receive(true).unwrap();
            match (&received, message) {
                (Message::Failed(cut), Message::Failed(whole)) => assert!(whole.starts_with(&cut[..4000])),
                _ => assert_eq!(&received, message),
            }
            assert!(file.is_none());
        }
        ours.send(&Message::Whole, Some(ours.as_fd())).unwrap();
        assert!(theirs.receive(true).unwrap().1.is_some());
        assert_eq!(theirs.receive(false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        // The descriptor that came with the last message was the other reference.
        assert_eq!(theirs.receive(false).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let cut = Message::Want(SlotId::new(0, 0), 5).encode();
        for bytes in
            [&[][..], &[0], &[6], &[4, 0], &[1], &[1, 2], &[1, 1, b'x'], &cut[..cut.len() - 1], &[2; 14]]
        {
            assert_eq!(Message::decode(bytes), None, "{bytes:?}");
        }
    }
}
