//! The engine's `/dev/kvm`.

use ringmark_abi::{EnableCap, Errno};

use crate::{Profile, Vm};

/// What `/dev/kvm` is to a process: capabilities, and the making of VMs.
#[derive(Clone, Debug)]
pub struct System {
    profile: Profile,
}

impl System {
    /// A host of the kind `profile`.
    #[must_use]
    pub const fn new(profile: Profile) -> Self {
        Self { profile }
    }

    /// The kind of host.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// `KVM_CHECK_EXTENSION` on the system descriptor; a VM answers the same.
    #[must_use]
    pub const fn check_extension(&self, cap: u32) -> u64 {
        self.profile.check_extension(cap)
    }

    /// `KVM_ENABLE_CAP` on the system descriptor.
    ///
    /// # Errors
    /// Always `EINVAL`: every capability of dirty tracking is a VM's.
    pub const fn enable_cap(&self, _cap: &EnableCap) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    /// `KVM_CREATE_VM`. The VM belongs to this process: a forked child gets `EIO` from every call.
    #[must_use]
    pub fn create_vm(&self) -> Vm {
        Vm::new(self.profile.clone())
    }
}
