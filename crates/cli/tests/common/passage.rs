//! A Unix socket through which everything passes, descriptors too, until a message comes that does not.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::migration::Receiver;
use super::{Home, wait_for};

/// A way to a receiver on which one message never arrives.
pub(crate) struct Passage {
    pub(crate) address: String,
    line: Arc<Line>,
}

/// What becomes of the way when the message comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It ends, and stays ended.
    Ends,
    /// It stands still until it is ended.
    Stands,
}

struct Line {
    message: &'static str,
    then: Then,
    reached: AtomicBool,
    dead: AtomicBool,
    open: Mutex<Vec<UnixStream>>,
}

impl Passage {
    /// A way to `receiver` that ends at `message`.
    pub(crate) fn cut(home: &Home, message: &'static str, receiver: &Receiver) -> Self {
        Self::new(home, message, Then::Ends, receiver)
    }

    /// A way to `receiver` that stands still at `message`.
    pub(crate) fn hold(home: &Home, message: &'static str, receiver: &Receiver) -> Self {
        Self::new(home, message, Then::Stands, receiver)
    }

    fn new(home: &Home, message: &'static str, then: Then, receiver: &Receiver) -> Self {
        let to = PathBuf::from(receiver.address.strip_prefix("unix:").unwrap());
        let front = home.dir().join("passage");
        let listener = UnixListener::bind(&front).unwrap();
        let (reached, dead) = (AtomicBool::new(false), AtomicBool::new(false));
        let line = Arc::new(Line { message, then, reached, dead, open: Mutex::default() });
        let shared = Arc::clone(&line);
        thread::spawn(move || {
            for source in listener.incoming() {
                let Ok(source) = source else { return };
                shared.connect(source, &to);
            }
        });
        Self { address: format!("unix:{}", front.display()), line }
    }

    pub(crate) fn is_reached(&self) -> bool {
        self.line.reached.load(Ordering::SeqCst)
    }

    /// Waits until the message has come.
    pub(crate) fn wait(&self) {
        wait_for("the message at which the way ends", || self.is_reached().then_some(()));
    }

    /// Ends it, for good.
    pub(crate) fn end(&self) {
        self.line.end();
    }
}

impl Line {
    fn end(&self) {
        self.dead.store(true, Ordering::SeqCst);
        for socket in self.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn connect(self: &Arc<Self>, source: UnixStream, to: &Path) {
        if self.reached.load(Ordering::SeqCst) {
            return;
        }
        let Ok(destination) = UnixStream::connect(to) else { return };
        for socket in [&source, &destination] {
            self.open.lock().unwrap().push(socket.try_clone().unwrap());
        }
        for (from, to) in
            [(source.try_clone().unwrap(), destination.try_clone().unwrap()), (destination, source)]
        {
            let line = Arc::clone(self);
            thread::spawn(move || line.forward(&from, &to));
        }
    }

    fn forward(&self, from: &UnixStream, to: &UnixStream) {
        // The one key of a message's map, or all of it, which is short: its length and its text.
        let length = 0x60 + u8::try_from(self.message.len()).unwrap();
        let key = [&[length], self.message.as_bytes()].concat();
        let mut buffer = vec![0; 64 << 10];
        while let Ok((count @ 1.., files)) = receive(from, &mut buffer) {
            if buffer[..count].windows(key.len()).any(|bytes| bytes == key) {
                self.reached.store(true, Ordering::SeqCst);
                match self.then {
                    Then::Ends => self.end(),
                    Then::Stands => {
                        wait_for("the end of the way", || self.dead.load(Ordering::SeqCst).then_some(()));
                    }
                }
                return;
            }
            if send(to, &buffer[..count], &files).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn receive(from: &UnixStream, buffer: &mut [u8]) -> rustix::io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            files.extend(came);
        }
    }
    Ok((received.bytes, files))
}

fn send(mut to: &UnixStream, bytes: &[u8], files: &[OwnedFd]) -> std::io::Result<()> {
    if files.is_empty() {
        return to.write_all(bytes);
    }
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    to.write_all(&bytes[sent..])
}
