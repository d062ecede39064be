//! What this host's userfaultfd can do, by trying it.

#![allow(unsafe_code, reason = "memory of its own to try it on")]

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::mapping::page_size;
use crate::open::{new_by_device, new_by_syscall};
use crate::{Faults, Features, MissingPages, OpenError, Userfaultfd, WriteLog};

/// Pages that a probe tries things on.
const PAGES: usize = 8;
/// After this long a page that nobody has brought counts as never coming.
const PATIENCE: Duration = Duration::from_secs(2);

/// What this host's userfaultfd can do.
#[derive(Debug)]
pub struct Probe {
    /// How this process comes by a descriptor that stops the kernel's faults too, or why it does not.
    pub opened: Result<HowOpened, OpenError>,
    /// What the kernel offers.
    pub offered: Features,
    /// Missing pages of a memfd, touched by a thread and by the kernel, are served.
    pub missing: Check,
    /// Written pages are found, once each, and protected again.
    pub written: Check,
    /// A page that was written and then lost its entry in the page table is found.
    pub vanished: Check,
}

/// How a descriptor was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowOpened {
    /// By the system call, with the privilege it asks for.
    Syscall,
    /// By `/dev/userfaultfd`.
    Device,
}

/// Whether something works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It does.
    Works,
    /// It cannot be had here.
    Absent(String),
    /// It is there and wrong: it must not be relied on.
    Wrong(String),
}

impl Check {
    /// Whether it may be relied on.
    #[must_use]
    pub fn works(&self) -> bool {
        *self == Self::Works
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Absent(why) | Self::Wrong(why) => f.write_str(why),
        }
    }
}

/// Tries everything, in milliseconds; at most a few seconds where something hangs.
#[must_use]
pub fn probe() -> Probe {
    let opened = match new_by_syscall(Faults::All) {
        Ok(_) => Ok(HowOpened::Syscall),
        Err(OpenError::Denied) => new_by_device().map(|_| HowOpened::Device),
        Err(error) => Err(error),
    };
    let offered =
        Userfaultfd::open(Faults::All, Features::NONE).map_or(Features::NONE, |uffd| uffd.offered());
    let written = outcome(written());
    let written = match (written, faulty_release()) {
        (Check::Works, Some(release)) => Check::Wrong(format!(
            "Linux {release} may lose written pages in PAGEMAP_SCAN (CVE-2024-36943, fixed in 6.8.10 and 6.9)"
        )),
        (check, _) => check,
    };
    Probe { opened, offered, missing: outcome(missing()), written, vanished: outcome(vanished()) }
}

/// Why a trial did not succeed.
enum Trouble {
    Absent(String),
    Wrong(String),
}

impl<E: std::error::Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Absent(error.to_string())
    }
}

fn outcome(tried: Result<(), Trouble>) -> Check {
    match tried {
        Ok(()) => Check::Works,
        Err(Trouble::Absent(why)) => Check::Absent(why),
        Err(Trouble::Wrong(why)) => Check::Wrong(why),
    }
}

fn expect(right: bool, what: impl FnOnce() -> String) -> Result<(), Trouble> {
    if right { Ok(()) } else { Err(Trouble::Wrong(what())) }
}

fn missing() -> Result<(), Trouble> {
    let uffd = Arc::new(Userfaultfd::open(Faults::All, Features::MISSING_SHMEM)?);
    let scratch = Scratch::new()?;
    // SAFETY: the scratch outlives the registration, and is touched by atomics only.
    let pages = unsafe { MissingPages::register(&uffd, scratch.start, scratch.len()) }?;
    let served = thread::scope(|scope| -> Result<bool, Trouble> {
        let server = scope.spawn(|| serve(&uffd, &pages));
        let by_thread = scratch.byte(1).load(Ordering::Relaxed) == 1;
        // As a hypervisor does: the kernel reads the memory for us.
        let (mut reader, mut writer) = io::pipe()?;
        let by_kernel = scratch.write_to(2, &mut writer) && {
            let mut byte = [0];
            io::Read::read_exact(&mut reader, &mut byte)?;
            byte == [2]
        };
        let in_time = server.join().unwrap_or(false);
        Ok(by_thread && by_kernel && in_time)
    })?;
    expect(served, || "a missing page was not served".into())
}

/// Serves two pages, each with its own number in every byte; gives up in time, letting whoever waits go.
fn serve(uffd: &Userfaultfd, pages: &MissingPages) -> bool {
    let begun = Instant::now();
    let mut served = 0;
    while served < 2 {
        let Some(left) = PATIENCE.checked_sub(begun.elapsed()) else {
            // Where this fails, the end of the registration lets them go.
            let _ = pages.zero(0, pages.len());
            return false;
        };
        let mut poll = libc::pollfd { fd: uffd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, in memory of this frame.
        unsafe { libc::poll(&raw mut poll, 1, i32::try_from(left.as_millis()).unwrap_or(0)) };
        while let Ok(Some(fault)) = uffd.next_fault() {
            let Some(offset) = pages.offset_of(fault.address) else { return false };
            let number = u8::try_from(offset / page_size()).unwrap_or(0);
            let page = vec![number; usize::try_from(page_size()).unwrap_or(0)];
            if pages.fill(offset, &page).is_err() {
                return false;
            }
            served += 1;
        }
    }
    true
}

fn written() -> Result<(), Trouble> {
    let (scratch, mut log) = scratch_log()?;
    scratch.byte(0).store(1, Ordering::Relaxed);
    log.protect()?;
    expect(taken(&mut log)?.is_empty(), || "protected pages count as written".into())?;
    let _ = scratch.byte(1).load(Ordering::Relaxed);
    // The first was there before, the second was read only, the third is new.
    scratch.byte(0).store(2, Ordering::Relaxed);
    scratch.byte(2).store(2, Ordering::Relaxed);
    for again in [false, true] {
        if again {
            scratch.byte(0).store(3, Ordering::Relaxed);
            scratch.byte(2).store(3, Ordering::Relaxed);
        }
        let found = taken(&mut log)?;
        expect(found == [0, 2], || format!("of the written pages 0 and 2 a scan found {found:?}"))?;
    }
    expect(taken(&mut log)?.is_empty(), || "a page that was taken is found again".into())
}

fn vanished() -> Result<(), Trouble> {
    let (scratch, mut log) = scratch_log()?;
    log.protect()?;
    scratch.byte(1).store(1, Ordering::Relaxed);
    scratch.drop_entries()?;
    let found = taken(&mut log)?;
    expect(found == [1], || format!("the written page 1 lost its entry, and a scan found {found:?}"))
}

/// The pages that a scan finds, each once.
fn taken(log: &mut WriteLog) -> Result<Vec<u64>, Trouble> {
    let mut found = Vec::new();
    log.take(|range| found.extend(range.start / page_size()..range.end / page_size()))?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn scratch_log() -> Result<(Scratch, WriteLog), Trouble> {
    let uffd = Arc::new(Userfaultfd::open(Faults::All, Features::WRITE_LOG)?);
    let scratch = Scratch::new()?;
    // SAFETY: callers drop the log before the scratch, which is touched by atomics only.
    let log = unsafe { WriteLog::register(&uffd, scratch.start, scratch.len()) }?;
    Ok((scratch, log))
}

/// The release of this kernel if it is one whose scans are known to be wrong: 6.7 to 6.8.9.
fn faulty_release() -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    is_faulty(&release).then(|| release.trim().to_owned())
}

fn is_faulty(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0u32);
    let version = (next(), next(), next());
    ((6, 7, 0)..(6, 8, 10)).contains(&version)
}

/// A few pages of a memfd, mapped shared.
struct Scratch {
    start: NonNull<u8>,
    page: usize,
}

impl Scratch {
    fn new() -> io::Result<Self> {
        let page = usize::try_from(page_size()).unwrap_or(0);
        // SAFETY: a name that ends in zero, and flags.
        let fd = unsafe { libc::memfd_create(c"ringmark-probe".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len((PAGES * page) as u64)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of the file just made, anywhere.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), PAGES * page, protection, flags, file.as_raw_fd(), 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, page }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn len(&self) -> usize {
        PAGES * self.page
    }

    /// The first byte of page `number`.
    fn byte(&self, number: usize) -> &AtomicU8 {
        assert!(number < PAGES, "a probe has {PAGES} pages");
        // SAFETY: a byte of the mapping, which lives as long as `self`.
        unsafe { AtomicU8::from_ptr(self.start.as_ptr().add(number * self.page)) }
    }

    /// Has the kernel read the first byte of page `number` into `target`.
    fn write_to(&self, number: usize, target: &mut (impl Write + AsRawFd)) -> bool {
        let byte = self.byte(number).as_ptr();
        // SAFETY: one byte of the mapping, read by the kernel.
        (unsafe { libc::write(target.as_raw_fd(), byte.cast(), 1) }) == 1
    }

    /// Removes every entry of the page table; the pages stay in the memfd.
    fn drop_entries(&self) -> io::Result<()> {
        // SAFETY: of shared memory only the entries go, no contents.
        let result = unsafe { libc::madvise(self.start.as_ptr().cast(), self.len(), libc::MADV_DONTNEED) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len()) };
    }
}

// SAFETY: the pointer is to memory of the process, which any thread may use.
unsafe impl Send for Scratch {}
// SAFETY: it is touched through atomics and the kernel only.
unsafe impl Sync for Scratch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_with_the_fault_are_known() {
        for (release, faulty) in [
            ("6.6.30", false),
            ("6.7.0-1", true),
            ("6.8.9", true),
            ("6.8.10", false),
            ("6.18.44-fc\n", false),
        ] {
            assert_eq!(is_faulty(release), faulty, "{release}");
        }
    }
}
