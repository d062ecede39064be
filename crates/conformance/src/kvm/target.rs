//! `/dev/kvm` and what it says of itself.

use ringmark_abi::{EnableCap, Errno};
use ringmark_kvm::System;

use super::{facts, vm::KvmVm};
use crate::Facts;
use crate::run::OpenError;
use crate::target::{Target, TestVm, Wish};
use crate::verdict::{Must, Stop, Unsupported};

/// `/dev/kvm` of this host.
#[derive(Debug)]
pub(super) struct KvmTarget {
    system: System,
    facts: Facts,
}

impl KvmTarget {
    pub(super) fn open() -> Result<Self, OpenError> {
        let system = System::open().map_err(|error| OpenError::Kvm(error.to_string()))?;
        let facts = facts::find(&system)
            .map_err(|errno| OpenError::Kvm(format!("/dev/kvm does not answer: {errno}")))?;
        Ok(Self { system, facts })
    }
}

impl Target for KvmTarget {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.system.check_extension(cap)
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.system.enable_cap(cap)
    }

    fn create_vm(&self, wish: Wish) -> Result<Box<dyn TestVm>, Stop> {
        let stops = self.facts.reset_stops_on_signal;
        match wish.reset_stops_on_signal {
            Some(true) if !stops => {
                return Err(
                    Unsupported("this kernel's reset ignores signals (before Linux 6.16)".into()).into()
                );
            }
            Some(false) if stops => {
                return Err(
                    Unsupported("this kernel's reset stops at signals (since Linux 6.16)".into()).into()
                );
            }
            _ => {}
        }
        let vm = self.system.create_vm().must("KVM_CREATE_VM")?;
        Ok(Box::new(KvmVm::new(&self.system, vm)))
    }
}
