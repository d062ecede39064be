//! The bare-metal program for arm64, and what it and its machine agree on.

/// Where RAM begins; [`IMAGE_END`], and all that the program uses, lies behind it.
pub const RAM: u64 = 0x4000_0000;

/// Where the image is loaded, and where every vCPU starts.
pub const ENTRY: u64 = RAM + 0x8_0000;

/// End of what the program uses for itself. What the image does not fill of `ENTRY..IMAGE_END` is zero.
pub const IMAGE_END: u64 = RAM + 0x20_0000;

/// Where a machine with nothing better in mind puts the mailbox: a boundary of every host page size.
pub const MAILBOX: u64 = IMAGE_END;

/// The console: the data register of a PL011. The program stores 32 bits, of which the low eight are the character, and
/// reads nothing.
pub const CONSOLE: u64 = 0x0900_0000;

/// Where a vCPU that has ended for good stores 32 bits: zero when it was told to stop, one when it could not go on. It
/// does so again whenever it is run all the same.
pub const HALT: u64 = 0x0901_0000;

/// Most vCPUs that the program has stacks for.
pub const MAX_VCPUS: u64 = 64;

/// A flat image that runs a [`Program`](crate::Program) on each vCPU, at EL0.
///
/// # Starting it
///
/// It is loaded at [`ENTRY`]. Every vCPU starts there as KVM resets it (EL1, MMU off, interrupts masked), none powered
/// off, with `x0` the address of the mailbox and `x1` its number, which is the writer's; there may be [`MAX_VCPUS`].
/// The mailbox holds the [`Config`](crate::Config), published before the first vCPU starts. Where the machine has a
/// VGICv3 with interrupt translation services, it holds an [`Interrupts`](crate::Interrupts) too. All regions lie from
/// [`IMAGE_END`] on and below 512 GiB.
///
/// # What it does
///
/// The first GiB is mapped one to one as device memory, what follows as normal memory by blocks of 2 MiB and 1 GiB, so
/// that the host's page tables alone decide how large its pages are. The access flag is set in all of its tables, which
/// are never written. vCPU 0 writes the lines of `X86_64_PVH` to [`CONSOLE`], programs the interrupt controller and keeps
/// it busy as [`Driver`](crate::Driver) says; every vCPU takes interrupts at EL1 and counts them, at times that it
/// chooses: most of the time they wait, so that a machine which is stopped anywhere has some pending. Told to stop, or
/// with an index that is no writer's, a vCPU stores to [`HALT`] and does nothing more. An exception that nobody expects
/// is printed.
#[cfg(arm64_payload)]
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ringmark-guest.img"));
