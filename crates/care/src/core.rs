//! The headers of a core file: guest memory and registers as debuggers read them.
//!
//! An ELF file of type `ET_CORE`: one `PT_NOTE` with an `NT_PRSTATUS` for each vCPU whose registers are known, and one
//! `PT_LOAD` for each memslot. Addresses are guest-physical, `p_vaddr` as well as `p_paddr`: a debugger that knows
//! nothing of the guest's page tables then reads memory by physical address.

use object::elf;
use object::endian::Endianness;
use object::write::elf::{FileHeader, ProgramHeader, Writer};

/// The architecture of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    X86_64,
    /// arm64.
    Aarch64,
}

impl Architecture {
    /// The architecture that the Rust compiler and machine images call `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    const fn machine(self) -> elf::Machine {
        match self {
            Self::X86_64 => elf::EM_X86_64,
            Self::Aarch64 => elf::EM_AARCH64,
        }
    }

    /// Registers in the kernel's `elf_gregset_t`: on x86-64 `struct user_regs_struct` (r15 first, gs last), on arm64
    /// `struct user_pt_regs` (x0 to x30, sp, pc, pstate).
    #[must_use]
    pub const fn registers(self) -> usize {
        match self {
            Self::X86_64 => 27,
            Self::Aarch64 => 34,
        }
    }
}

/// What a core file says beside memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// What the guest runs on.
    pub architecture: Architecture,
    /// The registers of each vCPU in the order of `elf_gregset_t`; none where they are not known.
    pub vcpus: Vec<Vec<u64>>,
}

/// Why there can be no core file.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// Registers that are not those of the architecture.
    #[error("vCPU {vcpu} has {found} registers instead of {expected}")]
    Registers {
        /// Which vCPU.
        vcpu: usize,
        /// Registers given.
        found: usize,
        /// Registers of the architecture.
        expected: usize,
    },
    /// The headers are more than an ELF file can have.
    #[error("the headers of a core file cannot be written: {0}")]
    Headers(#[from] object::write::Error),
}

/// The beginning of a core file, and where in it each range of memory has to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) bytes: Vec<u8>,
    /// File offsets of the ranges.
    pub(crate) offsets: Vec<u64>,
    /// Length of the whole file.
    pub(crate) length: u64,
}

/// Headers for `ranges` of guest-physical addresses, each a start and a length. Both, and offsets in the file, are
/// multiples of `align`, a page.
pub(crate) fn headers(core: &Core, ranges: &[(u64, u64)], align: u64) -> Result<Headers, CoreError> {
    let notes = notes(core)?;
    let mut bytes = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut bytes);
    writer.reserve_file_header();
    // At most 4096 memslots: the count fits.
    writer.reserve_program_headers(u32::try_from(ranges.len() + 1).unwrap_or(u32::MAX));
    let notes_at = writer.reserve(notes.len() as u64, 4);
    let mut end = writer.reserved_len().next_multiple_of(align);
    let mut offsets = Vec::with_capacity(ranges.len());
    for (_, length) in ranges {
        offsets.push(end);
        end += length;
    }
    let header = FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_CORE,
        e_machine: core.architecture.machine(),
        e_entry: 0,
        e_flags: elf::FileFlags(0),
    };
    writer.write_file_header(&header)?;
    writer.write_align_program_headers();
    writer.write_program_header(&ProgramHeader {
        p_type: elf::PT_NOTE,
        p_flags: elf::ProgramFlags(0),
        p_offset: notes_at,
        p_vaddr: 0,
        p_paddr: 0,
        p_filesz: notes.len() as u64,
        p_memsz: 0,
        p_align: 4,
    });
    for ((start, length), offset) in ranges.iter().zip(&offsets) {
        writer.write_program_header(&ProgramHeader {
            p_type: elf::PT_LOAD,
            p_flags: elf::PF_R | elf::PF_W | elf::PF_X,
            p_offset: *offset,
            p_vaddr: *start,
            p_paddr: *start,
            p_filesz: *length,
            p_memsz: *length,
            p_align: align,
        });
    }
    writer.pad_until(notes_at);
    writer.write(&notes);
    Ok(Headers { bytes, offsets, length: end })
}

/// One `NT_PRSTATUS` for each vCPU.
fn notes(core: &Core) -> Result<Vec<u8>, CoreError> {
    let mut notes = Vec::new();
    for (vcpu, registers) in core.vcpus.iter().enumerate() {
        let expected = core.architecture.registers();
        if registers.len() != expected {
            return Err(CoreError::Registers { vcpu, found: registers.len(), expected });
        }
        // A debugger names threads by this number, and takes 0 for none.
        let thread = u32::try_from(vcpu + 1).unwrap_or(u32::MAX);
        let status = status(thread, registers);
        let name = b"CORE\0";
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        for word in [length(name), length(&status), elf::NT_PRSTATUS.0] {
            notes.extend_from_slice(&word.to_le_bytes());
        }
        notes.extend_from_slice(name);
        notes.resize(notes.len().next_multiple_of(4), 0);
        notes.extend_from_slice(&status);
    }
    Ok(notes)
}

/// The kernel's `struct elf_prstatus` of a 64-bit architecture (include/linux/elfcore.h): signals, four identities and
/// times, all of which a vCPU does not have, then the registers.
fn status(thread: u32, registers: &[u64]) -> Vec<u8> {
    /// Where `pr_pid` lies.
    const IDENTITY: usize = 32;
    /// Where `pr_reg` lies.
    const REGISTERS: usize = 112;
    let mut status = vec![0; REGISTERS];
    status[IDENTITY..][..4].copy_from_slice(&thread.to_le_bytes());
    for register in registers {
        status.extend_from_slice(&register.to_le_bytes());
    }
    // `pr_fpvalid`, padded to eight bytes: no floating-point registers follow.
    status.extend_from_slice(&[0; 8]);
    status
}
