//! What the interrupt controller asks of the VM around it.

use ringmark_abi::Errno;

/// Guest memory and vCPUs as the interrupt controller sees them during one call.
///
/// An implementation knows in whose context the call runs, so that a write is marked where the kernel would mark it:
/// in the ring of the vCPU whose store reached a register, else in the backup bitmap.
pub(crate) trait Host {
    /// `kvm_read_guest`.
    fn read(&self, gpa: u64, data: &mut [u8]) -> Result<(), Errno>;
    /// `vgic_write_guest_lock`.
    fn write(&self, gpa: u64, data: &[u8]) -> Result<(), Errno>;
    /// `kvm_is_visible_gfn`: whether a memslot holds `gpa`.
    fn is_visible(&self, gpa: u64) -> bool;
    /// `kvm_get_vcpu_by_id`.
    fn has_vcpu(&self, id: u32) -> bool;
    /// The ids of all vCPUs in the order in which they were created.
    fn vcpus(&self) -> Vec<u32>;
}

/// The table entry at `gpa`: 8 bytes, little endian.
pub(super) fn read_entry(host: &dyn Host, gpa: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    host.read(gpa, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Replaces the table entry at `gpa`.
pub(super) fn write_entry(host: &dyn Host, gpa: u64, entry: u64) -> Result<(), Errno> {
    host.write(gpa, &entry.to_le_bytes())
}

/// One byte.
pub(super) fn read_byte(host: &dyn Host, gpa: u64) -> Result<u8, Errno> {
    let mut byte = [0];
    host.read(gpa, &mut byte)?;
    Ok(byte[0])
}
