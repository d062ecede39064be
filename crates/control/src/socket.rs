//! The socket in the file system: owner-only, not taken, removed by whoever made it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A living process answers at this path.
    #[error("the socket {} is taken: a running machine answers there; use another name, or stop that machine", .0.display())]
    Taken(PathBuf),
    /// Something that is no socket has this path.
    #[error("{} exists and is not a socket; it was left alone: remove it, or use another name", .0.display())]
    NotASocket(PathBuf),
    /// A path that the kernel's socket addresses cannot hold.
    #[error("the path {} is too long for a socket, which has at most 107 bytes: use a shorter name or directory", .0.display())]
    TooLong(PathBuf),
    /// A directory in which others could replace the socket, or reach it.
    #[error(
        "the directory {dir} of the socket belongs to user {owner} and has mode {mode:03o}; it has to be user {we}'s \
         own with mode 700: chmod it, or use another directory"
    )]
    OpenDirectory {
        /// The directory.
        dir: PathBuf,
        /// The user who owns it.
        owner: u32,
        /// Its permissions.
        mode: u32,
        /// The user who asks.
        we: u32,
    },
    /// The system refused.
    #[error("cannot make the socket, {doing} {path} failed: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl BindError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// A socket's entry in its directory. Dropping it removes the entry, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    dir: PathBuf,
    /// Device and inode: what tells this socket from a later one of the same name.
    identity: (u64, u64),
}

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Listens at `path`, for the owner only.
pub(crate) fn listen(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let address = SocketAddrUnix::new(path).map_err(|e| match e {
        Errno::NAMETOOLONG => BindError::TooLong(path.to_owned()),
        e => BindError::io("naming", path)(e.into()),
    })?;
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    // Held to the end: of two processes that find a stale socket, one replaces it and the other finds the new one.
    let _lock = lock_dir(&dir)?;
    clear(path, &address)?;

    let failed = |doing| move |e: Errno| BindError::io(doing, path)(e.into());
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(failed("making"))?;
    // bind(2) gives the file the mode of the socket's own inode (unix_bind), so that it is never wider than this.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("chmod of"))?;
    net::bind(&socket, &address).map_err(failed("binding"))?;
    let made = fs::symlink_metadata(path).map_err(BindError::io("looking at", path))?;
    let file = SocketFile { path: path.to_owned(), dir, identity: (made.dev(), made.ino()) };
    net::listen(&socket, BACKLOG).map_err(failed("listening on"))?;
    Ok((UnixListener::from(socket), file))
}

/// Makes `dir` if it is not there, checks that it is the caller's alone, and locks it until the file is dropped.
fn lock_dir(dir: &Path) -> Result<File, BindError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(BindError::io("creating", dir))?;
    let lock = File::open(dir).map_err(BindError::io("opening", dir))?;
    let found = lock.metadata().map_err(BindError::io("looking at", dir))?;
    let we = rustix::process::geteuid().as_raw();
    let mode = found.mode() & 0o777;
    if found.uid() != we || mode & 0o077 != 0 {
        return Err(BindError::OpenDirectory { dir: dir.to_owned(), owner: found.uid(), mode, we });
    }
    lock.lock().map_err(BindError::io("locking", dir))?;
    Ok(lock)
}

/// Removes a socket that nobody listens to any more.
fn clear(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(BindError::io("looking at", path)(e)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let failed = |doing| move |e: Errno| BindError::io(doing, path)(e.into());
    // Not blocking: a process whose backlog is full lives, and must not hold us up.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("making"))?;
    match net::connect(&probe, address) {
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Err(BindError::Taken(path.to_owned())),
        // Another kind of socket, which is not ours to remove.
        Err(Errno::PROTOTYPE) => Err(BindError::Taken(path.to_owned())),
        Err(Errno::CONNREFUSED) => {
            tracing::info!(socket = %path.display(), "replacing the socket of a machine that is gone");
            fs::remove_file(path).map_err(BindError::io("removing", path))
        }
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(failed("probing")(e)),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let remove = || -> io::Result<()> {
            let lock = File::open(&self.dir)?;
            lock.lock()?;
            let found = fs::symlink_metadata(&self.path)?;
            if (found.dev(), found.ino()) == self.identity {
                fs::remove_file(&self.path)?;
            }
            Ok(())
        };
        match remove() {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(socket = %self.path.display(), error = %e, "the socket was not removed");
            }
            _ => {}
        }
    }
}
