//! The device tree: what an arm64 kernel is told of its machine.

use vm_fdt::FdtWriter;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::layout::{RamLayout, board};

/// Longest command line in bytes, its final zero included (`COMMAND_LINE_SIZE` of arm64).
pub const COMMAND_LINE_MAX: usize = 2048;
/// Room for the tree, at the end of memory; the boot protocol allows 2 MiB.
const ROOM: u64 = 64 << 10;

/// How the interrupt controller is referred to.
const CONTROLLER: u32 = 1;
/// Kinds and triggers in an interrupt's cells (`arm,gic-v3.yaml`).
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_LOW: u32 = 8;
/// The timers' private interrupts: secure, non-secure, virtual, hypervisor.
const TIMERS: [u32; 4] = [13, 14, 11, 10];
/// The frequency that a 16550 divides; nothing depends on it here.
const SERIAL_CLOCK: u32 = 1_843_200;

/// Why the tree could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A command line over [`COMMAND_LINE_MAX`], or with a zero in it.
    #[error("the command line has {0} bytes; at most {max}, none of them zero, are allowed", max = COMMAND_LINE_MAX - 1)]
    CommandLine(usize),
    /// The image covers all of memory.
    #[error("the image leaves no {ROOM} bytes of memory for the device tree; give more --memory")]
    NoRoom,
    /// The tree cannot be written.
    #[error("the device tree cannot be written: {0}")]
    Write(String),
}

/// What the tree describes.
#[derive(Clone, Copy, Debug)]
pub struct Board<'a> {
    /// vCPUs.
    pub vcpus: u32,
    /// Interrupt translation services.
    pub translators: u32,
    /// The kernel's command line.
    pub command_line: &'a str,
}

/// Writes the tree at the end of memory, behind an image that ends at `image_end`; returns its address.
///
/// # Errors
/// See [`TreeError`].
pub fn write<M: GuestMemoryBackend>(
    memory: &M,
    layout: &RamLayout,
    image_end: u64,
    board: &Board<'_>,
) -> Result<u64, TreeError> {
    let line = board.command_line;
    if line.len() >= COMMAND_LINE_MAX || line.contains('\0') {
        return Err(TreeError::CommandLine(line.len()));
    }
    let (_, start, size) = layout.ranges().next().ok_or(TreeError::NoRoom)?;
    let at = (start + size).checked_sub(ROOM).filter(|&at| at >= image_end).ok_or(TreeError::NoRoom)?;
    let tree = describe((start, size), board).map_err(|e| TreeError::Write(e.to_string()))?;
    if tree.len() as u64 > ROOM {
        return Err(TreeError::NoRoom);
    }
    memory.write_slice(&tree, GuestAddress(at)).map_err(|e| TreeError::Write(e.to_string()))?;
    Ok(at)
}

fn describe(memory: (u64, u64), about: &Board<'_>) -> Result<Vec<u8>, vm_fdt::Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u32("interrupt-parent", CONTROLLER)?;

    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", about.command_line)?;
    tree.property_string("stdout-path", &format!("/serial@{:x}", board::SERIAL))?;
    tree.end_node(chosen)?;

    let (start, size) = memory;
    let node = tree.begin_node(&format!("memory@{start:x}"))?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[start, size])?;
    tree.end_node(node)?;

    let node = tree.begin_node("psci")?;
    tree.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    tree.property_string("method", "hvc")?;
    tree.end_node(node)?;

    processors(&mut tree, about.vcpus)?;
    interrupts(&mut tree, about)?;

    let node = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    tree.property_null("always-on")?;
    tree.property_array_u32("interrupts", &TIMERS.map(|timer| [PRIVATE, timer, LEVEL_LOW]).concat())?;
    tree.end_node(node)?;

    let node = tree.begin_node(&format!("serial@{:x}", board::SERIAL))?;
    tree.property_string("compatible", "ns16550a")?;
    tree.property_array_u64("reg", &[board::SERIAL, 0x1000])?;
    tree.property_u32("clock-frequency", SERIAL_CLOCK)?;
    tree.property_array_u32("interrupts", &[SHARED, board::SERIAL_SPI, EDGE_RISING])?;
    tree.end_node(node)?;

    tree.end_node(root)?;
    tree.finish()
}

fn processors(tree: &mut FdtWriter, vcpus: u32) -> Result<(), vm_fdt::Error> {
    let all = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for vcpu in 0..vcpus {
        let affinity = board::affinity(vcpu);
        let node = tree.begin_node(&format!("cpu@{affinity:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u32("reg", affinity)?;
        tree.end_node(node)?;
    }
    tree.end_node(all)
}

fn interrupts(tree: &mut FdtWriter, about: &Board<'_>) -> Result<(), vm_fdt::Error> {
    let all = tree.begin_node(&format!("interrupt-controller@{:x}", board::DISTRIBUTOR))?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_phandle(CONTROLLER)?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_null("ranges")?;
    let redistributors = u64::from(about.vcpus) * board::FRAMES;
    tree.property_array_u64("reg", &[board::DISTRIBUTOR, 0x1_0000, board::REDISTRIBUTORS, redistributors])?;
    for index in 0..about.translators {
        let at = board::translator(index);
        let node = tree.begin_node(&format!("msi-controller@{at:x}"))?;
        tree.property_string("compatible", "arm,gic-v3-its")?;
        tree.property_null("msi-controller")?;
        tree.property_u32("#msi-cells", 1)?;
        tree.property_array_u64("reg", &[at, board::FRAMES])?;
        tree.end_node(node)?;
    }
    tree.end_node(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::AddressMap;
    use ringmark_dirty::PageSize;
    use vm_memory::GuestMemoryMmap;

    fn write_to(mebibytes: u64, image_end: u64, line: &str) -> Result<Vec<u8>, TreeError> {
        let page = PageSize::new(4096).unwrap();
        let layout = RamLayout::new(AddressMap::Board, mebibytes << 20, page).unwrap();
        let ranges: Vec<_> = layout
            .ranges()
            .map(|(_, start, size)| (GuestAddress(start), usize::try_from(size).unwrap()))
            .collect();
        let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
        let board = Board { vcpus: 18, translators: 2, command_line: line };
        let at = write(&memory, &layout, image_end, &board)?;
        let mut bytes = vec![0; usize::try_from(ROOM).unwrap()];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        Ok(bytes)
    }

    #[test]
    fn it_names_every_device() {
        let tree = write_to(16, 0x4020_0000, "console=ttyS0").unwrap();
        assert_eq!(tree[..4], 0xd00d_feed_u32.to_be_bytes());
        let text = String::from_utf8_lossy(&tree);
        for name in [
            "console=ttyS0",
            "memory@40000000",
            "cpu@0",
            "cpu@f",
            "cpu@100",
            "cpu@101",
            "msi-controller@a020000",
        ] {
            assert!(text.contains(name), "{name}");
        }
        assert!(!text.contains("cpu@102"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(matches!(write_to(16, 0x40ff_8000, ""), Err(TreeError::NoRoom)));
        assert!(matches!(write_to(16, 0, &"x".repeat(COMMAND_LINE_MAX)), Err(TreeError::CommandLine(_))));
        assert!(matches!(write_to(16, 0, "a\0b"), Err(TreeError::CommandLine(3))));
        assert!(write_to(16, 0, &"x".repeat(COMMAND_LINE_MAX - 1)).is_ok());
    }
}
