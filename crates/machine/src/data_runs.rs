//! Where a memory file holds data.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Tells a memory file's data from its holes.
///
/// The kernel finds the end of a run by walking all of it (`mapping_seek_hole_data`), however little of it is asked about:
/// looked at piece by piece a run would cost its square. So the run that was found last is remembered. What holds data
/// holds it until a hole is punched, and then [`forget`](Self::forget) is called; who has asked at the same moment may
/// remember the run from before, and takes a hole for zeros that are there, never data for a hole.
#[derive(Debug)]
pub(crate) struct DataRuns {
    file: Arc<File>,
    last: Mutex<Range<u64>>,
}

impl DataRuns {
    pub(crate) fn new(file: Arc<File>) -> Self {
        Self { file, last: Mutex::new(0..0) }
    }

    /// The runs of data in `range`, in bytes.
    pub(crate) fn within(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let Some(run) = self.next(at)?.filter(|run| run.start < range.end) else { break };
            let end = run.end.min(range.end);
            match runs.last_mut() {
                // It has grown since it was remembered.
                Some(last) if last.end == run.start => last.end = end,
                _ => runs.push(run.start..end),
            }
            at = run.end;
        }
        Ok(runs)
    }

    /// A hole was punched.
    pub(crate) fn forget(&self) {
        self.remember(0..0);
    }

    /// The first data from `at` on, and how far it reaches.
    fn next(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if last.contains(&at) {
            return Ok(Some(at..last.end));
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let run = start..rustix::fs::seek(&self.file, SeekFrom::Hole(start))?;
        self.remember(run.clone());
        Ok(Some(run))
    }

    fn remember(&self, run: Range<u64>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = run;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_run_that_grows_or_is_punched_is_seen_as_it_is() {
        let page = rustix::param::page_size() as u64;
        let file = rustix::fs::memfd_create("data-runs", rustix::fs::MemfdFlags::CLOEXEC);
        let file = Arc::new(File::from(file.unwrap_or_else(|e| panic!("{e}"))));
        file.set_len(64 * page).unwrap_or_else(|e| panic!("{e}"));
        let write = |first: u64, count: u64| {
            let bytes = vec![1; usize::try_from(count * page).unwrap_or(0)];
            file.write_all_at(&bytes, first * page).unwrap_or_else(|e| panic!("{e}"));
        };
        let data = DataRuns::new(Arc::clone(&file));
        let pages = |range: Range<u64>| -> Vec<_> {
            let runs = data.within(range.start * page..range.end * page).unwrap_or_else(|e| panic!("{e}"));
            runs.into_iter().map(|run| (run.start / page, run.end / page)).collect()
        };
        assert_eq!(pages(0..64), []);
        write(4, 4);
        write(20, 2);
        assert_eq!(pages(0..64), [(4, 8), (20, 22)]);
        assert_eq!(pages(5..7), [(5, 7)]);
        // Behind a run that was remembered.
        write(8, 2);
        assert_eq!(pages(6..12), [(6, 10)]);
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&*file, punch, 5 * page, page).unwrap_or_else(|e| panic!("{e}"));
        data.forget();
        assert_eq!(pages(4..10), [(4, 5), (6, 10)]);
    }
}
