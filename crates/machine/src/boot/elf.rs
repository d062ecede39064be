//! Loading an ELF image that says where its PVH entry is.

use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

/// `XEN_ELFNOTE_PHYS32_ENTRY` of `xen/include/public/elfnote.h`: the 32-bit entry point of the PVH boot protocol.
const PHYS32_ENTRY: u32 = 18;

/// Where a loaded image lies and begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Guest-physical address of the 32-bit entry point.
    pub entry: u32,
    /// Guest-physical address of the first byte loaded.
    pub start: u64,
    /// Guest-physical address after the last byte loaded or reserved.
    pub end: u64,
}

/// Why an image is not bootable.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Not an ELF image at all.
    #[error("this is not an ELF image; give an uncompressed kernel (vmlinux) or another ELF with a PVH note")]
    NotElf,
    /// An ELF image for another machine.
    #[error("this ELF image is for another kind of processor (e_machine {0}); this machine is x86-64")]
    Machine(u16),
    /// A table of the image is damaged.
    #[error("the ELF image is damaged: {0}")]
    Damaged(String),
    /// No PVH note.
    #[error("the ELF image has no PVH entry (ELF note 18 of owner Xen); a Linux kernel needs CONFIG_PVH=y")]
    NoPvhNote,
    /// A segment that does not lie in guest memory.
    #[error(
        "the ELF image wants {size} bytes at {address:#x}, which is outside guest memory (there is none from 3 to 4 GiB); give more --memory, or link it elsewhere"
    )]
    OutsideMemory {
        /// Guest-physical address of the segment.
        address: u64,
        /// Its length in bytes.
        size: u64,
    },
    /// Nothing to load.
    #[error("the ELF image has no loadable segment")]
    Empty,
}

/// Loads the segments of `image` at their physical addresses and finds its PVH entry.
///
/// Every note segment is searched: linkers put notes of different alignment into segments of their own, and a loader
/// that keeps only the last one does not find the entry.
///
/// # Errors
/// See [`ElfError`]; guest memory may then hold some of the segments.
pub fn load<M: GuestMemoryBackend>(memory: &M, image: &[u8]) -> Result<Loaded, ElfError> {
    match FileKind::parse(image) {
        Ok(FileKind::Elf64) => load_class::<FileHeader64<Endianness>, M>(memory, image),
        Ok(FileKind::Elf32) => load_class::<FileHeader32<Endianness>, M>(memory, image),
        _ => Err(ElfError::NotElf),
    }
}

fn load_class<H, M>(memory: &M, image: &[u8]) -> Result<Loaded, ElfError>
where
    H: FileHeader<Endian = Endianness>,
    M: GuestMemoryBackend,
{
    let header = H::parse(image)?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    if endian != Endianness::Little || ![elf::EM_X86_64, elf::EM_386].contains(&machine) {
        return Err(ElfError::Machine(machine.0));
    }
    let (mut start, mut end, mut entry) = (u64::MAX, 0, None);
    for segment in header.program_headers(endian, image)? {
        if segment.p_type(endian) == elf::PT_NOTE {
            entry = entry.or(pvh_entry(segment, endian, image)?);
        }
        let size: u64 = segment.p_memsz(endian).into();
        if segment.p_type(endian) != elf::PT_LOAD || size == 0 {
            continue;
        }
        let address: u64 = segment.p_paddr(endian).into();
        let outside = || ElfError::OutsideMemory { address, size };
        let length = usize::try_from(size).map_err(|_| outside())?;
        if !memory.check_range(GuestAddress(address), length) {
            return Err(outside());
        }
        let data =
            segment.data(endian, image).map_err(|()| damaged("a segment runs past the end of the file"))?;
        if data.len() > length {
            return Err(damaged("a segment is longer in the file than in memory"));
        }
        memory.write_slice(data, GuestAddress(address)).map_err(|_| outside())?;
        start = start.min(address);
        end = end.max(GuestAddress(address).raw_value() + size);
    }
    if end == 0 {
        return Err(ElfError::Empty);
    }
    Ok(Loaded { entry: entry.ok_or(ElfError::NoPvhNote)?, start, end })
}

impl From<object::read::Error> for ElfError {
    fn from(error: object::read::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn damaged(what: &str) -> ElfError {
    ElfError::Damaged(what.to_owned())
}

fn pvh_entry<P>(segment: &P, endian: P::Endian, image: &[u8]) -> Result<Option<u32>, ElfError>
where
    P: ProgramHeader<Endian = Endianness>,
{
    let Some(mut notes) = segment.notes(endian, image)? else { return Ok(None) };
    while let Some(note) = notes.next()? {
        if note.name() == b"Xen" && note.n_type(endian).0 == PHYS32_ENTRY {
            // The descriptor is 4 bytes in 32-bit images and 4 or 8 in 64-bit ones; the entry is a 32-bit address.
            let mut word = [0; 4];
            let low =
                note.desc().get(..4).ok_or_else(|| damaged("the PVH note is shorter than an address"))?;
            word.copy_from_slice(low);
            return Ok(Some(u32::from_le_bytes(word)));
        }
    }
    Ok(None)
}
