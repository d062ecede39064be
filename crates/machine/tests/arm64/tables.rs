//! Machines with two interrupt translation services, and what is known of their tables.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_guest::{Config, DamageKind, FIRST_LPI, Interrupts, Load, MAILBOX, Pattern, Report, arm64};
use ringmark_machine::{HypervisorWish, Machine, Ram};
use ringmark_track::{SourceKind, Wish};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::common::{create, guest};

pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Runs `test` on every hypervisor of this host that has such interrupt controllers, one test at a time: mutants are of
/// the whole process.
pub(crate) fn on_each(name: &str, test: impl Fn(HypervisorWish)) {
    let _one = one_at_a_time();
    test(HypervisorWish::Engine);
    if let Some(kvm) = kvm(name) {
        test(kvm);
    }
}

/// How much `report` finds wrong that no kernel does. KVM leaves the pending bit of an LPI in memory when tables are saved, and a guest
/// that goes on, takes the interrupt and maps the LPI anew receives it again (`interrupts.rs` in the tests of `ringmark-kvm`).
pub(crate) fn lost(report: &Report, hypervisor: HypervisorWish) -> u64 {
    let again = report.damages().filter(|damage| damage.kind == DamageKind::InterruptRepeated).count();
    report.damaged - if hypervisor == HypervisorWish::Engine { 0 } else { again as u64 }
}

pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `/dev/kvm`, if it is arm64's.
pub(crate) fn kvm(name: &str) -> Option<HypervisorWish> {
    if cfg!(not(target_arch = "aarch64")) {
        return None;
    }
    match ringmark_kvm::System::open() {
        Ok(_) => Some(HypervisorWish::Kvm),
        Err(error) => {
            eprintln!("SKIPPED {name} on /dev/kvm: {error}");
            None
        }
    }
}

struct Words<'a>(&'a Ram);

impl Load for Words<'_> {
    type Error = GuestMemoryError;
    fn load(&mut self, gpa: u64) -> Result<u64, GuestMemoryError> {
        self.0.guest().read_obj(GuestAddress(gpa))
    }
}

/// A machine that uses two translation services, and where their tables lie.
pub(crate) struct Subject {
    pub(crate) machine: Machine,
    config: Config,
    interrupts: Interrupts,
}

impl Subject {
    /// A new machine whose guest takes interrupts.
    pub(crate) fn start(hypervisor: HypervisorWish) -> Self {
        let mut config = guest(hypervisor, Wish::Ring { entries: Some(4096) }, Pattern::Zipf);
        config.memory = 16 << 20;
        config.its = 2;
        let ringmark_machine::Boot::Guest(spec) = &mut config.boot else { unreachable!() };
        spec.hot = 1 << 20;
        let subject = Self::of(create(config), hypervisor);
        subject.machine.resume().unwrap();
        subject.take_interrupts(100);
        subject
    }

    pub(crate) fn of(machine: Machine, hypervisor: HypervisorWish) -> Self {
        let mailbox = if hypervisor == HypervisorWish::Engine { MAILBOX } else { arm64::MAILBOX };
        let config = Config::load(&mut Words(machine.ram()), mailbox).unwrap();
        let interrupts = Interrupts::load(&mut Words(machine.ram()), &config).unwrap().unwrap();
        assert_eq!(interrupts.count, 2);
        assert!(interrupts.lines() >= 256, "hundreds of events");
        Self { machine, config, interrupts }
    }

    fn wait(&self, what: &str, mut until: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !until() {
            assert_eq!(
                self.machine.outcome().map(|o| o.map_err(|e| e.to_string())),
                None,
                "the machine ended"
            );
            assert!(begun.elapsed() < LIMIT, "{what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn taken(&self) -> u64 {
        self.interrupts.tally(&mut Words(self.machine.ram()), &self.config).unwrap().taken
    }

    /// Waits until the guest has taken `count` more interrupts.
    pub(crate) fn take_interrupts(&self, count: u64) {
        let target = self.taken() + count;
        self.wait("interrupts do not arrive", || self.taken() >= target);
    }

    /// How often each event was raised.
    fn raised(&self) -> Vec<u64> {
        let word = |vcpu, lpi| {
            let gpa = self.interrupts.raised_gpa(&self.config, vcpu, lpi);
            Words(self.machine.ram()).load(gpa).unwrap()
        };
        let all =
            |line| (0..self.config.writers).map(|vcpu| word(vcpu, 2 * line) + word(vcpu, 2 * line + 1)).sum();
        (0..self.interrupts.lines()).map(all).collect()
    }

    /// Waits until every event was raised twice more: no event is raised again before it was taken.
    pub(crate) fn take_every_interrupt(&self) {
        let before = self.raised();
        self.wait("some interrupt does not arrive", || {
            before.iter().zip(self.raised()).all(|(before, now)| now >= before + 2)
        });
    }

    /// Pages that saving the tables writes every time: entries of devices, collections and events.
    pub(crate) fn table_pages(&self) -> BTreeSet<u64> {
        let Interrupts { count, devices, events, .. } = self.interrupts;
        let words = (0..count).flat_map(|its| {
            let collections =
                (0..=self.config.writers).map(move |entry| self.interrupts.collection_table(its) + 8 * entry);
            let of_device = move |device| {
                let entry = self.interrupts.device_table(its) + 8 * self.interrupts.device_id(its, device);
                let table = self.interrupts.translation_table(its, device);
                std::iter::once(entry).chain((0..events).map(move |event| table + 8 * event))
            };
            collections.chain((0..devices).flat_map(of_device))
        });
        words.map(|gpa| self.gfn(gpa)).collect()
    }

    /// The pages of one translation service among them.
    #[cfg(feature = "mutants")]
    pub(crate) fn is_of(&self, gfn: u64, its: u64) -> bool {
        let start = self.gfn(self.interrupts.device_table(its));
        let end = self.gfn(self.interrupts.translation_table(its, self.interrupts.devices - 1));
        (start..=end).contains(&gfn)
    }

    /// Pages that saving pending interrupts writes where something has changed.
    pub(crate) fn pending_pages(&self) -> BTreeSet<u64> {
        let bytes = FIRST_LPI / 8..(FIRST_LPI + self.interrupts.lpis()).div_ceil(8);
        let of_vcpu = |vcpu| bytes.clone().map(move |byte| self.interrupts.pending_table(vcpu) + byte);
        (0..self.config.writers).flat_map(of_vcpu).map(|gpa| self.gfn(gpa)).collect()
    }

    fn gfn(&self, gpa: u64) -> u64 {
        gpa / self.config.page_size
    }

    /// Pages that the backup bitmap was the last to report, in the epoch that ended last.
    pub(crate) fn in_last_bitmap(&self) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        for slot in self.machine.ram().slots().iter() {
            for offset in 0..slot.npages {
                let last = self.machine.last_report(slot.id, offset);
                if last.is_some_and(|last| last.source == SourceKind::Bitmap && last.epochs_ago == 0) {
                    pages.insert(slot.base.0 + offset);
                }
            }
        }
        pages
    }
}
