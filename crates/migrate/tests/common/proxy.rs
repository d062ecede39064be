//! A link that breaks where it is told to.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    ToDestination,
    ToSource,
}

/// Where the link breaks: after so many bytes of the connections of this role, in this direction.
#[derive(Clone, Copy, Debug)]
pub struct Break {
    pub role: u8,
    pub way: Way,
    pub after: u64,
    /// Whether new connections work afterwards.
    pub heals: bool,
}

struct State {
    at: Option<Break>,
    counted: AtomicU64,
    broken: AtomicBool,
    open: Mutex<Vec<UnixStream>>,
    /// Bytes by role and way, for tests that want to know where messages end.
    seen: Mutex<Vec<(u8, Way, u64)>>,
}

/// Forwards every connection from `path` to the real listener, with the descriptors that come, until it breaks.
pub struct Proxy {
    pub path: PathBuf,
    state: Arc<State>,
}

impl Proxy {
    pub fn start(path: PathBuf, to: PathBuf, at: Option<Break>) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let state = Arc::new(State {
            at,
            counted: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            open: Mutex::default(),
            seen: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                shared.connect(connection, &to);
            }
        });
        Self { path, state }
    }

    pub fn has_broken(&self) -> bool {
        self.state.broken.load(Ordering::SeqCst)
    }

    /// Where what was sent at a time ended, counted in bytes: a message each, unless two followed each other closely.
    pub fn ends(&self, role: u8, way: Way) -> Vec<u64> {
        let seen = self.state.seen.lock().unwrap();
        let lengths = seen.iter().filter(|(r, w, _)| *r == role && *w == way).map(|(.., bytes)| *bytes);
        lengths.scan(0, |end, length| Some(std::mem::replace(end, *end + length) + length)).collect()
    }

    /// Bytes that went over connections of `role` in direction `way`.
    pub fn bytes(&self, role: u8, way: Way) -> u64 {
        let seen = self.state.seen.lock().unwrap();
        seen.iter().filter(|(r, w, _)| *r == role && *w == way).map(|(.., bytes)| bytes).sum()
    }
}

impl State {
    fn connect(self: &Arc<Self>, mut source: UnixStream, to: &Path) {
        if self.broken.load(Ordering::SeqCst) && !self.at.is_some_and(|at| at.heals) {
            return;
        }
        let Ok(mut destination) = UnixStream::connect(to) else { return };
        // The role is in the preamble, which never breaks: a connection that was never made is another case.
        let mut preamble = [0; 16];
        if source.read_exact(&mut preamble).is_err() || destination.write_all(&preamble).is_err() {
            return;
        }
        let role = preamble[12];
        let mut open = self.open.lock().unwrap();
        open.push(source.try_clone().unwrap());
        open.push(destination.try_clone().unwrap());
        drop(open);
        for (from, to, way) in [
            (source.try_clone().unwrap(), destination.try_clone().unwrap(), Way::ToDestination),
            (destination, source, Way::ToSource),
        ] {
            let state = Arc::clone(self);
            thread::spawn(move || state.forward(from, to, role, way));
        }
    }

    fn forward(&self, from: UnixStream, mut to: UnixStream, role: u8, way: Way) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok((count @ 1.., files)) = receive(&from, &mut buffer) {
            self.seen.lock().unwrap().push((role, way, count as u64));
            let mut pass = count;
            if let Some(at) =
                self.at.filter(|at| at.role == role && at.way == way && !self.broken.load(Ordering::SeqCst))
            {
                let before = self.counted.fetch_add(count as u64, Ordering::SeqCst);
                if before + count as u64 >= at.after {
                    pass = usize::try_from(at.after.saturating_sub(before)).unwrap();
                    let _ = send(&mut to, &buffer[..pass], &files);
                    self.snap();
                    return;
                }
            }
            if send(&mut to, &buffer[..pass], &files).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    /// Every connection ends at once.
    fn snap(&self) {
        self.broken.store(true, Ordering::SeqCst);
        for socket in self.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// What is there to be read, and the descriptors beside it.
fn receive(from: &UnixStream, buffer: &mut [u8]) -> rustix::io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
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

/// Sends `bytes`, with `files` beside the first of them.
pub fn send(to: &mut UnixStream, bytes: &[u8], files: &[OwnedFd]) -> std::io::Result<()> {
    if files.is_empty() || bytes.is_empty() {
        return to.write_all(bytes);
    }
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(&*to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    to.write_all(&bytes[sent..])
}
