//! Scans of this process's page tables: `PAGEMAP_SCAN` (Linux 6.7).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use crate::open::ioctl_value;
use crate::sys::{self, PageRegion, PmScanArg};

/// Ranges that one call of the kernel may return.
const REGIONS: usize = 512;

/// The page tables of this process.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
    regions: Box<[PageRegion]>,
}

/// Which pages a scan finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Find {
    /// Those that were written since they were protected.
    Written,
    /// Those without any entry, not even one that says "protected": an entry that was removed after the page was written.
    ///
    /// A removed entry is not "written" to every kernel, and a removed table of entries is not to any before 7.2
    /// (`pagemap_scan_pte_hole`), while the entry of a *protected* page leaves a marker behind.
    Vanished,
}

impl Pagemap {
    pub(crate) fn open() -> io::Result<Self> {
        let file = File::open("/proc/self/pagemap")?;
        Ok(Self { file, regions: vec![PageRegion::default(); REGIONS].into() })
    }

    /// Finds pages of the addresses `range` and protects each in the same step, under the lock of its entry: no write comes
    /// between the two.
    ///
    /// # Errors
    /// The kernel's refusal. Pages may have been protected that were not handed to `found`.
    pub(crate) fn take(
        &mut self,
        range: Range<u64>,
        find: Find,
        mut found: impl FnMut(Range<u64>),
    ) -> io::Result<()> {
        let (inverted, mask) = match find {
            Find::Written => (0, sys::PAGE_IS_WRITTEN),
            Find::Vanished => {
                let any = sys::PAGE_IS_PRESENT | sys::PAGE_IS_SWAPPED;
                (any, any)
            }
        };
        let mut at = range.start;
        while at < range.end {
            let mut scan = PmScanArg {
                size: size_of::<PmScanArg>() as u64,
                flags: sys::PM_SCAN_WP_MATCHING | sys::PM_SCAN_CHECK_WPASYNC,
                start: at,
                end: range.end,
                vec: self.regions.as_mut_ptr().expose_provenance() as u64,
                vec_len: self.regions.len() as u64,
                category_inverted: inverted,
                category_mask: mask,
                return_mask: sys::PAGE_IS_WRITTEN,
                ..PmScanArg::default()
            };
            // The kernel writes at most `vec_len` regions to the vector whose address went in as a number.
            let argument = std::ptr::from_mut(&mut scan).expose_provenance() as _;
            let count = ioctl_value(self.file.as_fd(), sys::PAGEMAP_SCAN, argument)?;
            let count = usize::try_from(count).unwrap_or(0).min(self.regions.len());
            for region in &self.regions[..count] {
                let (start, end) = (region.start.max(at), region.end.min(range.end));
                if start < end {
                    found(start..end);
                }
            }
            if scan.walk_end <= at {
                return Err(io::Error::other("PAGEMAP_SCAN made no progress"));
            }
            at = scan.walk_end;
        }
        Ok(())
    }
}
