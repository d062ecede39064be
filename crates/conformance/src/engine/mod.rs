//! The software engine as a target.

mod vcpu;
mod vm;

use ringmark_abi::{EnableCap, Errno};
use ringmark_engine::{Profile, System};

use crate::facts::{Facts, Rules};
use crate::target::{Target, TestVm, Wish};
use crate::verdict::Stop;

/// `KVM_CAP_NR_MEMSLOTS`.
const NR_MEMSLOTS: u32 = 10;
/// `KVM_CAP_MULTI_ADDRESS_SPACE`.
const MULTI_ADDRESS_SPACE: u32 = 118;

/// The engine with one architecture's rules.
#[derive(Debug)]
pub struct EngineTarget {
    profile: Profile,
    facts: Facts,
}

impl EngineTarget {
    /// The engine as it plays today's kernel of an architecture.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self::with_profile(match rules {
            Rules::X86 => Profile::x86(),
            Rules::Arm64 => Profile::arm64(),
        })
    }

    /// The engine as it plays `profile`.
    #[must_use]
    pub fn with_profile(profile: Profile) -> Self {
        use ringmark_abi::cap;

        let rules = match profile.arch() {
            ringmark_engine::Arch::X86 => Rules::X86,
            ringmark_engine::Arch::Arm64 => Rules::Arm64,
        };
        let number = |cap| u32::try_from(profile.check_extension(cap)).unwrap_or(u32::MAX);
        let facts = Facts {
            name: format!("engine-{}", rules.name()),
            rules,
            kernel: format!("ringmark-engine {} ({} rules)", env!("CARGO_PKG_VERSION"), rules.name()),
            release: None,
            mmu: "software".into(),
            page_size: profile.host_page_size(),
            pml: profile.reserved_entries() - 64,
            user_slots: number(NR_MEMSLOTS),
            address_spaces: number(MULTI_ADDRESS_SPACE).max(1),
            real: false,
            ring: true,
            with_bitmap: number(cap::DIRTY_LOG_RING_WITH_BITMAP) > 0,
            gic: rules == Rules::Arm64,
            panics_on_warn: false,
            reset_stops_on_signal: true,
        };
        Self { profile, facts }
    }
}

impl Target for EngineTarget {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        Ok(System::new(self.profile.clone()).check_extension(cap))
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        System::new(self.profile.clone()).enable_cap(cap)
    }

    fn create_vm(&self, wish: Wish) -> Result<Box<dyn TestVm>, Stop> {
        let mut profile = self.profile.clone();
        if let Some(stops) = wish.reset_stops_on_signal {
            profile = profile.reset_stops_on_signal(stops);
        }
        if let Some(pages) = wish.huge_pages {
            profile = profile.huge_block_pages(u32::try_from(pages).unwrap_or(u32::MAX));
        }
        Ok(Box::new(vm::EngineVm::new(System::new(profile).create_vm())))
    }
}
