//! ELF images made from nothing: whatever a linker may write, and whatever none should.

/// The width of an image's tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Elf32,
    Elf64,
}

pub(crate) const EM_386: u16 = 3;
pub(crate) const EM_X86_64: u16 = 62;
pub(crate) const EM_AARCH64: u16 = 183;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;

/// One program header and what it points to.
pub(crate) struct Segment {
    kind: u32,
    address: u64,
    memory: u64,
    bytes: Vec<u8>,
}

/// Contents at a guest-physical address, followed by zeros up to `memory` bytes.
pub(crate) fn load(address: u64, memory: u64, bytes: &[u8]) -> Segment {
    Segment { kind: PT_LOAD, address, memory, bytes: bytes.to_vec() }
}

/// A note segment with the PVH entry point; `width` is the length of its descriptor, 4 or 8.
pub(crate) fn pvh_note(entry: u32, width: usize) -> Segment {
    note("Xen", PHYS32_ENTRY, &u64::from(entry).to_le_bytes()[..width])
}

/// A note segment that has nothing to do with booting.
pub(crate) fn other_note() -> Segment {
    note("GNU", 3, &[0xab; 20])
}

fn note(owner: &str, kind: u32, descriptor: &[u8]) -> Segment {
    let mut bytes = Vec::new();
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
    bytes.extend(length(owner.len() + 1));
    bytes.extend(length(descriptor.len()));
    bytes.extend(kind.to_le_bytes());
    for part in [&[owner.as_bytes(), &[0]].concat(), descriptor] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Segment { kind: PT_NOTE, address: 0, memory: bytes.len() as u64, bytes }
}

/// An executable image of `segments`.
pub(crate) fn image(class: Class, machine: u16, segments: &[Segment]) -> Vec<u8> {
    let wide = class == Class::Elf64;
    let (header, entry) = if wide { (64, 56) } else { (52, 32) };
    let mut at = (header + entry * segments.len()).next_multiple_of(16);
    let mut out = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1];
    out.resize(16, 0);
    let half = |out: &mut Vec<u8>, value: usize| out.extend(u16::try_from(value).unwrap().to_le_bytes());
    let word = |out: &mut Vec<u8>, value: u64| out.extend(u32::try_from(value).unwrap().to_le_bytes());
    let address = |out: &mut Vec<u8>, value: u64| {
        if wide { out.extend(value.to_le_bytes()) } else { word(out, value) }
    };
    half(&mut out, 2); // ET_EXEC
    half(&mut out, machine.into());
    word(&mut out, 1);
    address(&mut out, 0); // e_entry: PVH takes the note's
    address(&mut out, header as u64);
    address(&mut out, 0);
    word(&mut out, 0);
    for value in [header, entry, segments.len(), 0, 0, 0] {
        half(&mut out, value);
    }
    for segment in segments {
        word(&mut out, segment.kind.into());
        if wide {
            word(&mut out, 7);
        }
        address(&mut out, at as u64);
        address(&mut out, segment.address);
        address(&mut out, segment.address);
        address(&mut out, segment.bytes.len() as u64);
        address(&mut out, segment.memory);
        if !wide {
            word(&mut out, 7);
        }
        address(&mut out, if segment.kind == PT_NOTE { 4 } else { 4096 });
        at = (at + segment.bytes.len()).next_multiple_of(16);
    }
    for segment in segments {
        out.resize(out.len().next_multiple_of(16), 0);
        out.extend(&segment.bytes);
    }
    out
}
