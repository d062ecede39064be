//! Descriptors over Unix sockets, and who is at the other end.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{Inner, Link, in_words};

impl Link {
    /// Whether it is a Unix socket.
    pub(crate) const fn is_local(&self) -> bool {
        matches!(self.inner, Inner::Unix(_))
    }

    /// Whether memory may be shared with the peer: it is a process of this host, and of a user who could take it anyhow, this
    /// one or root.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) fn may_share(&self) -> Result<(), String> {
        let Inner::Unix(socket) = &self.inner else {
            return Err("descriptors travel over Unix sockets alone (unix:PATH)".into());
        };
        let peer = user_of(socket).map_err(|error| format!("the peer's user cannot be told: {error}"))?;
        let we = rustix::process::geteuid().as_raw();
        if peer == we || peer == 0 {
            return Ok(());
        }
        Err(format!("the two processes belong to different users, {we} and {peer}"))
    }

    /// Sends `bytes` with `file` beside the first of them.
    pub(crate) fn send_with_file(&mut self, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
        let Inner::Unix(socket) = &self.inner else { return Err(io::ErrorKind::Unsupported.into()) };
        let files = [file];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::Error::other("there is no room for a descriptor in a message"));
        }
        let sent = loop {
            match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => break sent.map_err(|error| in_words(error.into()))?,
            }
        };
        self.write_all(&bytes[sent..])
    }

    /// A view of the connection that keeps a descriptor that comes with what is read, for `limit` at most. Whatever comes
    /// beside other reads is closed by the kernel.
    pub(crate) fn with_file(&mut self, limit: Duration) -> WithFile<'_> {
        WithFile { link: self, end: Instant::now() + limit, file: None, came: 0 }
    }
}

/// A connection on which one descriptor is due.
#[derive(Debug)]
pub(crate) struct WithFile<'a> {
    link: &'a mut Link,
    end: Instant,
    file: Option<OwnedFd>,
    /// Descriptors that came; all but the first were closed.
    came: usize,
}

impl WithFile<'_> {
    /// The descriptor that came, if one did.
    ///
    /// # Errors
    /// If more than one came; all are closed.
    pub(crate) fn into_file(self) -> Result<Option<OwnedFd>, MoreFiles> {
        if self.came > 1 { Err(MoreFiles) } else { Ok(self.file) }
    }
}

/// More descriptors than the one that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it came with more than one descriptor")]
pub(crate) struct MoreFiles;

impl Read for WithFile<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(in_words(io::ErrorKind::WouldBlock.into()));
        }
        self.link.wait_at_most(left)?;
        let waiting = self.link.read.bytes.len() > self.link.read.at;
        let Inner::Unix(socket) = &self.link.inner else { return self.link.read(bytes) };
        if waiting {
            return self.link.read(bytes);
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)
            .map_err(|error| in_words(error.into()))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                for file in files {
                    self.came += 1;
                    self.file.get_or_insert(file);
                }
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            // The kernel has closed those for which there was no room.
            self.came += 2;
        }
        Ok(received.bytes)
    }
}

/// The user at the other end of `socket`, as of its connection.
///
/// `rustix::net::sockopt::socket_peercred` has no value for a process that is not visible here, whose number is 0.
#[allow(
    unsafe_code,
    reason = "getsockopt of credentials has no other safe form for peers of another PID namespace"
)]
fn user_of(socket: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let size = libc::socklen_t::try_from(mem::size_of::<libc::ucred>()).map_err(io::Error::other)?;
    let mut length = size;
    // SAFETY: `peer` and `length` are as large as they say and outlive the call, and any bytes are a `ucred`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    match got {
        0 if length == size => Ok(peer.uid),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> [Link; 2] {
        let (one, other) = UnixStream::pair().unwrap();
        [one, other].map(|socket| Link::new(Inner::Unix(socket)))
    }

    fn received(link: &mut Link, count: usize) -> (Vec<u8>, Result<Option<OwnedFd>, MoreFiles>) {
        let mut bytes = vec![0; count];
        let mut reading = link.with_file(Duration::from_secs(10));
        reading.read_exact(&mut bytes).unwrap();
        (bytes, reading.into_file())
    }

    #[test]
    fn a_descriptor_comes_with_the_bytes_that_it_was_sent_with() {
        let [mut ours, mut theirs] = pair();
        ours.may_share().unwrap();
        let file = File::open("/proc/self/cmdline").unwrap();
        ours.send_with_file(b"memory", file.as_fd()).unwrap();
        ours.write_all(b"more").unwrap();
        let (bytes, got) = received(&mut theirs, 10);
        assert_eq!(bytes, b"memorymore");
        let got = got.unwrap().expect("a descriptor");
        assert!(rustix::io::fcntl_getfd(&got).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(rustix::fs::fstat(&got).unwrap().st_ino, rustix::fs::fstat(&file).unwrap().st_ino);
    }

    #[test]
    fn one_descriptor_is_due_and_no_more() {
        let [mut ours, mut theirs] = pair();
        ours.write_all(b"none").unwrap();
        assert!(received(&mut theirs, 4).1.unwrap().is_none());
        let file = File::open("/proc/self/cmdline").unwrap();
        ours.send_with_file(b"one", file.as_fd()).unwrap();
        ours.send_with_file(b"two", file.as_fd()).unwrap();
        assert_eq!(received(&mut theirs, 6).1.unwrap_err(), MoreFiles);
        // What was read without expecting one has none.
        ours.send_with_file(b"late", file.as_fd()).unwrap();
        let mut bytes = [0; 4];
        theirs.read_exact(&mut bytes).unwrap();
        ours.write_all(b"x").unwrap();
        assert!(received(&mut theirs, 1).1.unwrap().is_none());
    }
}
