//! A virtual machine: its state, and what may be done with it.

mod caps;
mod device;
mod dirty_log;
mod ioctls;
mod mark;
mod protect;
mod regions;
mod reset;
mod truth;

use std::{
    fmt, process,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use ringmark_abi::Errno;
use ringmark_dirty::{Memslot, Producer, SlotTable, ring};

pub use mark::{Marked, Writer};

use crate::{
    Faults, Profile, Stats, Vcpu,
    gic::Gic,
    memslots::Memslots,
    stats::Counters,
    strict::Strict,
    sync::{lock, read, write},
    vcpu::{Shadow, VcpuShared, VcpusHeld},
};

/// `KVM_MAX_VCPU_IDS`.
const MAX_VCPU_IDS: u32 = 4096;

/// A virtual machine; clones are further handles to the same one.
///
/// Its calls are the ioctls of a VM descriptor ([`ringmark_abi::Vm`]) with the kernel's rules and errnos, and beside
/// them what a kernel does inside: marks and writes of devices, and a view of the truth that no kernel has.
#[derive(Clone)]
pub struct Vm {
    inner: Arc<VmInner>,
}

/// `struct kvm`.
pub(crate) struct VmInner {
    pub(crate) profile: Profile,
    /// The process that made it (`kvm->mm`).
    owner: u32,
    dead: AtomicBool,
    /// `dirty_ring_size`; 0 while rings are off.
    ring_bytes: AtomicU32,
    /// `dirty_ring_with_bitmap`.
    with_bitmap: AtomicBool,
    /// `manual_dirty_log_protect`.
    manual: AtomicU64,
    /// `slots_lock`: one change of memslots, collection, clearing or reset at a time.
    slots_lock: Mutex<()>,
    memslots: RwLock<Arc<Memslots>>,
    /// Read while a device touches guest memory; a memslot change waits for it, as it waits for vCPUs' sections.
    memory_users: RwLock<()>,
    /// `kvm->lock`; the number of vCPUs ever created.
    created_vcpus: Mutex<u32>,
    vcpus: RwLock<Vec<Arc<VcpuShared>>>,
    /// Advanced by every flush; a translation made under another value is void. Starts at 1.
    pub(crate) epoch: AtomicU64,
    gic: Gic,
    pub(crate) stats: Counters,
    pub(crate) strict: Strict,
    faults: Faults,
}

impl Vm {
    pub(crate) fn new(profile: Profile) -> Self {
        let memslots = Memslots::new(profile.address_spaces);
        Self {
            inner: Arc::new(VmInner {
                profile,
                owner: process::id(),
                dead: AtomicBool::new(false),
                ring_bytes: AtomicU32::new(0),
                with_bitmap: AtomicBool::new(false),
                manual: AtomicU64::new(0),
                slots_lock: Mutex::default(),
                memslots: RwLock::new(Arc::new(memslots)),
                memory_users: RwLock::default(),
                created_vcpus: Mutex::default(),
                vcpus: RwLock::default(),
                epoch: AtomicU64::new(1),
                gic: Gic::default(),
                stats: Counters::default(),
                strict: Strict::default(),
                faults: Faults::default(),
            }),
        }
    }

    pub(crate) fn inner(&self) -> &VmInner {
        &self.inner
    }

    /// The kind of kernel and host it runs on.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.inner.profile
    }

    /// `KVM_CREATE_VCPU`. Its ring, if rings are on, is allocated here.
    ///
    /// # Errors
    /// `EINVAL` for an id of 4,096 or more, `EEXIST` for one in use (also by a vCPU whose handle was dropped), `EIO`.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, Errno> {
        self.inner.check_alive()?;
        if id >= MAX_VCPU_IDS {
            return Err(Errno::EINVAL);
        }
        let mut created = lock(&self.inner.created_vcpus);
        if read(&self.inner.vcpus).iter().any(|vcpu| vcpu.id == id) {
            return Err(Errno::EEXIST);
        }
        let entries = self.inner.ring_entries();
        let ring = if entries == 0 {
            None
        } else {
            let pages = Arc::new(ring::allocate(entries));
            // Refused only for sizes that enabling the ring has refused already.
            Some(Producer::new(pages, self.inner.profile.reserved_entries()).map_err(|_| Errno::ENOMEM)?)
        };
        let shared = Arc::new(VcpuShared::new(id, Arc::downgrade(&self.inner), ring));
        if self.inner.strict.is_on() {
            self.inner.remember_pushes(&shared);
        }
        write(&self.inner.vcpus).push(Arc::clone(&shared));
        *created += 1;
        drop(created);
        Ok(Vcpu::new(self.clone(), shared))
    }

    #[cfg(test)]
    pub(crate) fn vcpus(&self) -> Vec<Arc<VcpuShared>> {
        read(&self.inner.vcpus).clone()
    }

    /// The ids of all vCPUs ever created, in the order of their making.
    #[must_use]
    pub fn vcpu_ids(&self) -> Vec<u32> {
        read(&self.inner.vcpus).iter().map(|vcpu| vcpu.id).collect()
    }

    /// Whether some vCPU has been in `KVM_RUN`.
    pub(crate) fn any_vcpu_has_run(&self) -> bool {
        read(&self.inner.vcpus).iter().any(|vcpu| vcpu.has_run.load(Ordering::Relaxed))
    }

    /// Takes every vCPU's mutex (`kvm_trylock_all_vcpus`): while the value lives, none of them gets into an ioctl.
    /// `None` if one is inside an ioctl now.
    pub(crate) fn hold_vcpus(&self) -> Option<VcpusHeld> {
        VcpusHeld::try_new(&read(&self.inner.vcpus))
    }

    /// Bits of a guest-physical address.
    pub(crate) fn ipa_bits(&self) -> u32 {
        self.inner.profile.ipa_bits
    }

    /// The memslots as an address map, for harvesters.
    #[must_use]
    pub fn slot_table(&self) -> SlotTable {
        let windows: Vec<Memslot> = self.inner.memslots().iter().map(|slot| slot.window).collect();
        // Slots are checked for size and overlap when they are set, by the same rules.
        SlotTable::new(windows).unwrap_or_default()
    }

    /// Marks the VM dead (`kvm_vm_dead`): from here on every ioctl, of its vCPUs too, gives `EIO`.
    pub fn kill(&self) {
        self.inner.dead.store(true, Ordering::Relaxed);
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.stats.read()
    }

    /// Switches for the faults of real kernels.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }
}

impl VmInner {
    /// `kvm_vm_ioctl`, `kvm_vcpu_ioctl`: only the process that made the VM may use it, and only while it is not dead.
    pub(crate) fn check_alive(&self) -> Result<(), Errno> {
        if self.dead.load(Ordering::Relaxed) || self.owner != process::id() {
            Err(Errno::EIO)
        } else {
            Ok(())
        }
    }

    pub(crate) fn memslots(&self) -> Arc<Memslots> {
        Arc::clone(&read(&self.memslots))
    }

    fn ring_entries(&self) -> u32 {
        const ENTRY_BYTES: u32 = 16;
        self.ring_bytes.load(Ordering::Relaxed) / ENTRY_BYTES
    }

    /// Pages of a vCPU's ring; 0 while rings are off.
    pub(crate) fn ring_pages(&self) -> u64 {
        self.profile.page_size.pages_in(u64::from(self.ring_bytes.load(Ordering::Relaxed)))
    }

    /// Whether rings are on.
    pub(crate) fn has_rings(&self) -> bool {
        self.ring_bytes.load(Ordering::Relaxed) != 0
    }

    /// `kvm_use_dirty_bitmap`.
    fn uses_bitmaps(&self) -> bool {
        !self.has_rings() || self.with_bitmap.load(Ordering::Relaxed)
    }

    /// `kvm_flush_remote_tlbs`: once it returns, no store goes through a translation made before it was called.
    pub(crate) fn flush_remote_tlbs(&self) {
        self.stats.flushes.add(1);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for vcpu in read(&self.vcpus).iter() {
            vcpu.section.wait();
        }
    }

    /// Remembers what the vCPU pushes from here on.
    fn remember_pushes(&self, vcpu: &VcpuShared) {
        if let Some(ring) = &vcpu.ring {
            vcpu.shadow.get_or_init(|| Shadow::new(ring.size()));
        }
    }
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("profile", &self.inner.profile)
            .field("ring_bytes", &self.inner.ring_bytes)
            .field("with_bitmap", &self.inner.with_bitmap)
            .field("vcpus", &self.vcpu_ids())
            .finish_non_exhaustive()
    }
}
