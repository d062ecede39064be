//! The bare-metal program for x86-64.

/// An ELF program with a PVH note that runs a [`Program`](crate::Program) on each vCPU, in ring 3.
///
/// # Starting it
///
/// It is a static ELF of two loadable segments from 1 MiB on that end below 4 MiB; what the file does not fill is
/// zero. Every vCPU starts at the address in the note (`XEN_ELFNOTE_PHYS32_ENTRY`) as the PVH boot protocol says:
/// 32-bit protected mode, flat segments, paging and interrupts off, `ebx` the address of `hvm_start_info`, which lies
/// below 4 GiB like all it points to. A vCPU is the writer whose index is its initial APIC id (CPUID leaf 1, `ebx`
/// bits 31 to 24); there may be 64.
///
/// The command line ([`BootLine`](crate::BootLine)) says where the mailbox is: `ringmark.mailbox=0x10000`. Its
/// [`Config`](crate::Config) is published before the first vCPU starts; all regions lie below 16 GiB, or below 512
/// GiB where the vCPUs have pages of 1 GiB. Without a mailbox (any PVH loader will do) `hot=16M` and more makes vCPU
/// 0 run alone and check itself now and then; without either it prints its usage and halts.
///
/// # What it does
///
/// Memory is mapped one to one, with the accessed and dirty bits set, so page tables are never written. Interrupts
/// stay off and nothing handles exceptions. vCPU 0 writes lines to COM1 (port 0x3f8):
///
/// ```text
/// ringmark guest: 2 vCPUs, 65536 pages, pattern zipf
/// check: ok, 98304 lanes
/// check: LOST 3, first: gfn 0x1234, writer 0: hot page is older than its ledger (expected 0x29, found 0x11)
/// ```
///
/// Told to stop, or with an index that is no writer's, a vCPU writes a byte to [`HALT_PORT`](crate::HALT_PORT) and
/// does nothing more. A monitor ends the vCPU there; ring 3 cannot halt, so under one that ignores the port it spins.
pub static X86_64_PVH: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ringmark-guest.elf"));
