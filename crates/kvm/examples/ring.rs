//! A guest writes eight pages; its dirty ring says which.
//!
//! `cargo run -p ringmark-kvm --example ring`

#![allow(unsafe_code, reason = "guest memory is mapped by hand to keep the program whole")]

use std::error::Error;
use std::{io, ptr};

use ringmark_abi::{EnableCap, MemoryRegion, Vm as _, cap, mem};
use ringmark_dirty::{Harvester, Memslot, SlotId, SlotTable};
use ringmark_kvm::{Exit, System};

const SLOT: SlotId = SlotId::new(0, 0);
const BYTES: usize = 1 << 20;

/// `mov ax,0x1000; mov ds,ax; xor bx,bx; mov cx,8; again: inc byte [bx]; add bx,0x1000; loop again; hlt`: real mode,
/// one store to each of the eight 4 KiB pages from 0x10000 on.
const PROGRAM: [u8; 19] = [
    0xb8, 0x00, 0x10, 0x8e, 0xd8, 0x31, 0xdb, 0xb9, 0x08, 0x00, 0xfe, 0x07, 0x81, 0xc3, 0x00, 0x10, 0xe2,
    0xf8, 0xf4,
];

fn main() -> Result<(), Box<dyn Error>> {
    let system = System::open()?;
    let vm = system.create_vm()?;

    // The ring comes before vCPUs: 4096 entries of 16 bytes for each of them.
    vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, 4096 * 16))?;

    // SAFETY: a new anonymous mapping, which is never unmapped.
    let memory = unsafe {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(ptr::null_mut(), BYTES, prot, flags, -1, 0)
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the program fits into the mapping, and the guest does not run yet.
    unsafe { memory.cast::<[u8; PROGRAM.len()]>().write(PROGRAM) };

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
    let mut sregs = vcpu.sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    regs.rip = 0;
    vcpu.set_regs(&regs)?;

    let base = vm.page_size().gfn(0);
    let slots = SlotTable::new([Memslot { id: SLOT, base, npages: vm.page_size().pages_in(BYTES as u64) }])?;
    let memory = vcpu.ring_memory().ok_or("the VM has a ring")?;
    let mut ring = Harvester::new(memory)?;

    loop {
        match vcpu.run()? {
            Exit::Hlt => break,
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
