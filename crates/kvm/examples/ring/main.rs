//! A guest writes eight pages; its dirty ring says which.
//!
//! `cargo run -p ringmark-kvm --example ring`

#![allow(unsafe_code, reason = "guest memory is mapped by hand to keep the program whole")]

#[cfg_attr(target_arch = "x86_64", path = "x86.rs")]
#[cfg_attr(target_arch = "aarch64", path = "arm64.rs")]
mod guest;

use std::error::Error;
use std::{io, ptr};

use ringmark_abi::{EnableCap, MemoryRegion, Vm as _, cap, mem};
use ringmark_dirty::{Harvester, Memslot, SlotId, SlotTable};
use ringmark_kvm::{Exit, System};

const SLOT: SlotId = SlotId::new(0, 0);
const BYTES: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let system = System::open()?;
    let vm = system.create_vm()?;

    // The ring comes before vCPUs: 4096 entries of 16 bytes for each of them.
    vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, 4096 * 16))?;
    // So does the bitmap that backs it, where there is one; it also comes before memslots.
    if vm.check_extension(cap::DIRTY_LOG_RING_WITH_BITMAP)? > 0 {
        vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_WITH_BITMAP, 0))?;
    }

    // SAFETY: a new anonymous mapping, which is never unmapped.
    let memory = unsafe {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(ptr::null_mut(), BYTES, prot, flags, -1, 0)
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the program fits into the mapping, and the guest does not run yet.
    unsafe { memory.cast::<[_; guest::PROGRAM.len()]>().write(guest::PROGRAM) };

    let region = MemoryRegion {
        slot: SLOT,
        flags: mem::LOG_DIRTY_PAGES,
        guest_phys_addr: 0,
        memory_size: BYTES as u64,
        userspace_addr: memory.expose_provenance() as u64,
    };
    // SAFETY: the mapping stays for as long as the process.
    unsafe { vm.set_user_memory_region(&region) }?;

    let mut vcpu = vm.create_vcpu(0)?;
    guest::start(&mut vcpu)?;

    let base = vm.page_size().gfn(0);
    let slots = SlotTable::new([Memslot { id: SLOT, base, npages: vm.page_size().pages_in(BYTES as u64) }])?;
    let memory = vcpu.ring_memory().ok_or("the VM has a ring")?;
    let mut ring = Harvester::new(memory)?;

    loop {
        match vcpu.run()? {
            Exit::Hlt | Exit::SystemEvent { .. } => break,
            // A full ring is harvested and reset below, and the guest goes on.
            Exit::DirtyRingFull | Exit::Interrupted => {}
            other => return Err(format!("the guest stopped: {other:?}").into()),
        }
        harvest(&mut ring, &slots, &vm)?;
    }
    harvest(&mut ring, &slots, &vm)
}

/// Takes what the ring holds, and gives it back to the kernel, which protects those pages again.
fn harvest(
    ring: &mut Harvester<impl ringmark_dirty::RingMemory>,
    slots: &SlotTable,
    vm: &ringmark_kvm::Vm,
) -> Result<(), Box<dyn Error>> {
    let mut taken = 0;
    for page in ring.harvest(slots) {
        println!("{page:?}");
        taken += 1;
    }
    // A short count is a kernel that a signal interrupted, and pages that are no longer tracked.
    let reset = vm.reset_dirty_rings()?;
    if reset == taken { Ok(()) } else { Err(format!("{taken} entries harvested, {reset} reset").into()) }
}
