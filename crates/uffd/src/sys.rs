//! The kernel's structures and request numbers (`include/uapi/linux/userfaultfd.h`, `include/uapi/linux/fs.h`).

use std::ffi::c_ulong;
use std::mem::size_of;

/// `_IOC` of the generic ABI, which x86-64 and arm64 share: direction, size, type, number.
#[allow(clippy::cast_possible_truncation, reason = "the sizes are those of the structures below")]
const fn ioc(direction: u32, kind: u32, number: u32, size: usize) -> c_ulong {
    ((direction << 30) | ((size as u32) << 16) | (kind << 8) | number) as c_ulong
}

const READ: u32 = 2;
const READ_WRITE: u32 = 3;
const UFFDIO: u32 = 0xaa;

pub(crate) const USERFAULTFD_IOC_NEW: c_ulong = ioc(0, UFFDIO, 0x00, 0);
pub(crate) const UFFDIO_API: c_ulong = ioc(READ_WRITE, UFFDIO, 0x3f, size_of::<Api>());
pub(crate) const UFFDIO_REGISTER: c_ulong = ioc(READ_WRITE, UFFDIO, 0x00, size_of::<Register>());
pub(crate) const UFFDIO_UNREGISTER: c_ulong = ioc(READ, UFFDIO, 0x01, size_of::<Range>());
pub(crate) const UFFDIO_WAKE: c_ulong = ioc(READ, UFFDIO, 0x02, size_of::<Range>());
pub(crate) const UFFDIO_COPY: c_ulong = ioc(READ_WRITE, UFFDIO, 0x03, size_of::<Copy>());
pub(crate) const UFFDIO_ZEROPAGE: c_ulong = ioc(READ_WRITE, UFFDIO, 0x04, size_of::<ZeroPage>());
pub(crate) const UFFDIO_WRITEPROTECT: c_ulong = ioc(READ_WRITE, UFFDIO, 0x06, size_of::<WriteProtect>());
pub(crate) const PAGEMAP_SCAN: c_ulong = ioc(READ_WRITE, b'f' as u32, 16, size_of::<PmScanArg>());

pub(crate) const UFFD_API: u64 = 0xaa;
pub(crate) const UFFD_USER_MODE_ONLY: i32 = 1;
pub(crate) const REGISTER_MODE_MISSING: u64 = 1 << 0;
pub(crate) const REGISTER_MODE_WP: u64 = 1 << 1;
pub(crate) const WRITEPROTECT_MODE_WP: u64 = 1 << 0;
pub(crate) const EVENT_PAGEFAULT: u8 = 0x12;

pub(crate) const PAGE_IS_WRITTEN: u64 = 1 << 1;
pub(crate) const PAGE_IS_PRESENT: u64 = 1 << 3;
pub(crate) const PAGE_IS_SWAPPED: u64 = 1 << 4;
pub(crate) const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
pub(crate) const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Api {
    pub(crate) api: u64,
    pub(crate) features: u64,
    pub(crate) ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Register {
    pub(crate) range: Range,
    pub(crate) mode: u64,
    pub(crate) ioctls: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Copy {
    pub(crate) dst: u64,
    pub(crate) src: u64,
    pub(crate) len: u64,
    pub(crate) mode: u64,
    /// Bytes copied, or a negative error.
    pub(crate) copy: i64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct ZeroPage {
    pub(crate) range: Range,
    pub(crate) mode: u64,
    /// Bytes zeroed, or a negative error.
    pub(crate) zeropage: i64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct WriteProtect {
    pub(crate) range: Range,
    pub(crate) mode: u64,
}

/// `struct uffd_msg` with the page-fault arm of its union; every arm is as long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Message {
    pub(crate) event: u8,
    pub(crate) reserved: [u8; 7],
    pub(crate) flags: u64,
    pub(crate) address: u64,
    pub(crate) thread: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageRegion {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) categories: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct PmScanArg {
    pub(crate) size: u64,
    pub(crate) flags: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) walk_end: u64,
    pub(crate) vec: u64,
    pub(crate) vec_len: u64,
    pub(crate) max_pages: u64,
    pub(crate) category_inverted: u64,
    pub(crate) category_mask: u64,
    pub(crate) category_anyof_mask: u64,
    pub(crate) return_mask: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers as the kernel's headers give them on x86-64 and arm64.
    #[test]
    fn requests_are_those_of_the_headers() {
        assert_eq!(USERFAULTFD_IOC_NEW, 0xaa00);
        assert_eq!(UFFDIO_API, 0xc018_aa3f);
        assert_eq!(UFFDIO_REGISTER, 0xc020_aa00);
        assert_eq!(UFFDIO_UNREGISTER, 0x8010_aa01);
        assert_eq!(UFFDIO_WAKE, 0x8010_aa02);
        assert_eq!(UFFDIO_COPY, 0xc028_aa03);
        assert_eq!(UFFDIO_ZEROPAGE, 0xc020_aa04);
        assert_eq!(UFFDIO_WRITEPROTECT, 0xc018_aa06);
        assert_eq!(PAGEMAP_SCAN, 0xc060_6610);
        assert_eq!(size_of::<Message>(), 32);
    }
}
