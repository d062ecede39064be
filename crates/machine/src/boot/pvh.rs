//! The PVH boot protocol: what a guest finds at its 32-bit entry (Xen's `docs/misc/pvh.pandoc`).

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::elf::Loaded;
use crate::layout::RamLayout;

/// First byte of what a PC keeps for itself below 1 MiB (the extended BIOS data area and the video memory).
const LOW_END: u64 = 0x9_fc00;
/// First byte above that.
const HIGH_START: u64 = 0x10_0000;
/// Room for start information, memory map, command line and descriptor table.
const BLOCK: u64 = 0x4000;
/// Where in the block each part lies.
const MEMMAP: u64 = 0x100;
const COMMAND_LINE: u64 = 0x1000;
const DESCRIPTORS: u64 = 0x3000;

/// Longest command line in bytes, its final zero included.
pub const COMMAND_LINE_MAX: usize = 0x2000;

/// What the monitor hands to the first vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handoff {
    /// The 32-bit entry point.
    pub entry: u32,
    /// Guest-physical address of `hvm_start_info`, for `ebx`.
    pub start_info: u32,
    /// Guest-physical address of a flat descriptor table.
    pub descriptors: u32,
}

/// Why the boot information could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum PvhError {
    /// A command line over [`COMMAND_LINE_MAX`].
    #[error("the command line has {0} bytes; at most {max} are allowed", max = COMMAND_LINE_MAX - 1)]
    CommandLine(usize),
    /// The image covers all of the first 3 GiB.
    #[error(
        "the image leaves no {BLOCK} bytes of memory below 3 GiB for the boot information; give more --memory"
    )]
    NoRoom,
    /// Guest memory refused the write.
    #[error("the boot information could not be written to guest memory: {0}")]
    Write(String),
}

/// Writes start information, memory map and command line beside the image.
///
/// # Errors
/// A command line that is too long, or no room beside the image.
pub fn write<M: GuestMemoryBackend>(
    memory: &M,
    layout: &RamLayout,
    image: &Loaded,
    command_line: &str,
) -> Result<Handoff, PvhError> {
    if command_line.len() >= COMMAND_LINE_MAX {
        return Err(PvhError::CommandLine(command_line.len()));
    }
    let block = place(layout, image).ok_or(PvhError::NoRoom)?;
    let map = memory_map(layout);
    let write_error = |e: &dyn std::fmt::Display| PvhError::Write(e.to_string());

    let mut line = command_line.as_bytes().to_vec();
    line.push(0);
    memory.write_slice(&line, GuestAddress(u64::from(block) + COMMAND_LINE)).map_err(|e| write_error(&e))?;
    memory
        .write_slice(&flat_descriptors(), GuestAddress(u64::from(block) + DESCRIPTORS))
        .map_err(|e| write_error(&e))?;
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: u64::from(block) + COMMAND_LINE,
        memmap_paddr: u64::from(block) + MEMMAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(u32::MAX),
        ..hvm_start_info::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(block.into()));
    params.set_sections(&map, GuestAddress(u64::from(block) + MEMMAP));
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(|e| write_error(&e))?;
    #[expect(clippy::cast_possible_truncation, reason = "an offset within the block")]
    let descriptors = block + DESCRIPTORS as u32;
    Ok(Handoff { entry: image.entry, start_info: block, descriptors })
}

/// Null, flat 32-bit code, flat 32-bit data and a task segment: selectors 0, 0x8, 0x10 and 0x18.
fn flat_descriptors() -> Vec<u8> {
    [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067]
        .into_iter()
        .flat_map(u64::to_le_bytes)
        .collect()
}

/// A block below 3 GiB that the image does not touch: low memory if it is free, else the end of memory.
fn place(layout: &RamLayout, image: &Loaded) -> Option<u32> {
    let low_ram = layout.ranges().next().map(|(_, start, size)| start + size)?;
    let candidates = [0x6000, low_ram.checked_sub(BLOCK)?, HIGH_START];
    let free = |at: &u64| at + BLOCK <= low_ram && (at + BLOCK <= image.start || *at >= image.end);
    candidates.into_iter().find(free).and_then(|at| u32::try_from(at).ok())
}

fn memory_map(layout: &RamLayout) -> Vec<hvm_memmap_table_entry> {
    let ram = |addr, end| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_: XEN_HVM_MEMMAP_TYPE_RAM,
        reserved: 0,
    };
    let mut map = Vec::new();
    for (_, start, size) in layout.ranges() {
        if start == 0 {
            map.push(ram(0, LOW_END));
            map.push(ram(HIGH_START, size));
        } else {
            map.push(ram(start, start + size));
        }
    }
    map
}
