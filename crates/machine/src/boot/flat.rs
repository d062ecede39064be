//! Loading a flat image with a header, as arm64 kernels are (`Documentation/arch/arm64/booting.rst`, "Image").

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// What the header's magic number says, at offset 56: `ARM` and 0x64.
const MAGIC: [u8; 4] = *b"ARM\x64";
/// Bytes of the header.
const HEADER: usize = 64;
/// Images lie this many bytes, or the header's offset more, behind a multiple of it.
pub const ALIGNMENT: u64 = 2 << 20;
/// The offset of kernels before 3.17, whose headers name none and no size either.
const OLD_OFFSET: u64 = 0x8_0000;
/// Bit of the header's flags: the kernel is big-endian.
const BIG_ENDIAN: u64 = 1;

/// Where a loaded image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Guest-physical address of its first byte, which is its entry point.
    pub entry: u64,
    /// Guest-physical address after the last byte that it uses before it knows where memory is.
    pub end: u64,
}

/// Why an image is not bootable.
#[derive(Debug, thiserror::Error)]
pub enum FlatError {
    /// No header.
    #[error(
        "this is no arm64 kernel image{0}; give the uncompressed `Image` of a kernel (arch/arm64/boot/Image, or a \
         distribution's vmlinuz where that is one)"
    )]
    NotImage(&'static str),
    /// A kernel that would not even find its own header.
    #[error("this arm64 kernel is big-endian; this machine starts little-endian ones")]
    BigEndian,
    /// It does not fit.
    #[error(
        "the image takes {size} bytes from {address:#x} on, more than guest memory has there; give more --memory"
    )]
    OutsideMemory {
        /// Guest-physical address of the image.
        address: u64,
        /// Bytes that it uses.
        size: u64,
    },
}

/// Loads `image` behind `base`, a multiple of [`ALIGNMENT`], as its header says.
///
/// What the image uses goes beyond the file: its uninitialised data follows, which has to be memory, and zero or not is
/// its own affair.
///
/// # Errors
/// See [`FlatError`]; memory is as it was, except where it ends within the file.
pub fn load<M: GuestMemoryBackend>(memory: &M, base: u64, image: &[u8]) -> Result<Loaded, FlatError> {
    let header = image.first_chunk::<HEADER>().ok_or(FlatError::NotImage(""))?;
    if header[56..60] != MAGIC {
        return Err(FlatError::NotImage(taken_for(image)));
    }
    let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let (offset, size, flags) = (word(8), word(16), word(24));
    if flags & BIG_ENDIAN != 0 {
        return Err(FlatError::BigEndian);
    }
    let offset = if size == 0 { OLD_OFFSET } else { offset };
    let size = size.max(image.len() as u64);
    let address = base.saturating_add(offset);
    let outside = || FlatError::OutsideMemory { address, size };
    let length = usize::try_from(size).map_err(|_| outside())?;
    if !memory.check_range(GuestAddress(address), length) {
        return Err(outside());
    }
    memory.write_slice(image, GuestAddress(address)).map_err(|_| outside())?;
    Ok(Loaded { entry: address, end: address + size })
}

/// What else the file is, where that helps.
fn taken_for(image: &[u8]) -> &'static str {
    match image {
        [0x7f, b'E', b'L', b'F', ..] => " but an ELF image",
        [0x1f, 0x8b, ..] => " but a gzip file",
        [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => " but a compressed EFI image",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    const BASE: u64 = 0x4000_0000;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), 4 << 20)]).unwrap()
    }

    fn image(offset: u64, size: u64, flags: u64) -> Vec<u8> {
        let mut image = vec![0xaa; 4096];
        image[8..16].copy_from_slice(&offset.to_le_bytes());
        image[16..24].copy_from_slice(&size.to_le_bytes());
        image[24..32].copy_from_slice(&flags.to_le_bytes());
        image[56..60].copy_from_slice(&MAGIC);
        image
    }

    #[test]
    fn it_lies_where_its_header_says() {
        let (memory, image) = (memory(), image(0x1000, 0x2_0000, 0xa));
        let loaded = load(&memory, BASE, &image).unwrap();
        assert_eq!(loaded, Loaded { entry: BASE + 0x1000, end: BASE + 0x2_1000 });
        let mut read = vec![0; image.len()];
        memory.read_slice(&mut read, GuestAddress(loaded.entry)).unwrap();
        assert_eq!(read, image);
    }

    #[test]
    fn an_old_header_has_no_size() {
        let loaded = load(&memory(), BASE, &image(0, 0, 0)).unwrap();
        assert_eq!(loaded, Loaded { entry: BASE + OLD_OFFSET, end: BASE + OLD_OFFSET + 4096 });
    }

    #[test]
    fn what_cannot_be_booted_is_refused() {
        let refused = |image: &[u8]| load(&memory(), BASE, image).unwrap_err().to_string();
        assert!(refused(b"").contains("no arm64 kernel"));
        let mut elf = vec![0; 100];
        elf[..4].copy_from_slice(b"\x7fELF");
        assert!(refused(&elf).contains("ELF"));
        assert!(refused(&image(0, 4096, 1)).contains("big-endian"));
        for (offset, size) in [(0, 5 << 20), (4 << 20, 4096), (u64::MAX, 4096), (0, u64::MAX)] {
            assert!(refused(&image(offset, size, 0)).contains("--memory"));
        }
    }
}
