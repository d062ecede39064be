//! Random histories against a naive oracle: whatever happens in between, an epoch holds at least what was written.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use ringmark_abi::{Vm as _, mem};
use ringmark_engine::{Exit, Profile, Vcpu, Writer};
use ringmark_track::{RingFull, Wish};
use support::board::{Board, Image};
use support::{Counted, slot};

const NPAGES: [u64; 3] = [900, 65, 130];

#[derive(Clone, Copy, Debug)]
enum Op {
    Store {
        vcpu: usize,
        page: Page,
    },
    /// As many stores, one page after another.
    Burst {
        vcpu: usize,
        page: Page,
        count: u64,
    },
    KvmWrite {
        vcpu: usize,
        page: Page,
    },
    Device {
        page: Page,
    },
    Monitor {
        page: Page,
    },
    /// Somebody switches a slot's log off, lets the guest write, and on again.
    Toggle {
        slot: u16,
        stores: u64,
    },
    /// A reset of at least `writes` entries is cut short after fewer.
    ShortReset {
        vcpu: usize,
        page: Page,
        writes: u32,
        after: u32,
    },
    /// So many entries go without a look at whether the ring is full, in one burst of stores.
    Overflow {
        vcpu: usize,
        count: u32,
    },
    Round,
    DropEpoch,
    Cut(End),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    DropEpoch,
    DropSealed,
    DeviceFails,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Page {
    slot: u16,
    offset: u64,
}

fn page() -> impl Strategy<Value = Page> {
    (0u16..3).prop_flat_map(|slot| {
        // A hot few and all of them.
        prop_oneof![0..5u64, 0..NPAGES[usize::from(slot)]].prop_map(move |offset| Page { slot, offset })
    })
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = 0usize..2;
    prop_oneof![
        20 => (vcpu.clone(), page()).prop_map(|(vcpu, page)| Op::Store { vcpu, page }),
        4 => (vcpu.clone(), page(), 1u64..300).prop_map(|(vcpu, page, count)| Op::Burst { vcpu, page, count }),
        4 => (vcpu.clone(), page()).prop_map(|(vcpu, page)| Op::KvmWrite { vcpu, page }),
        5 => page().prop_map(|page| Op::Device { page }),
        5 => page().prop_map(|page| Op::Monitor { page }),
        1 => (0u16..3, 0u64..5).prop_map(|(slot, stores)| Op::Toggle { slot, stores }),
        2 => (vcpu.clone(), page(), 1u32..40, 0u32..40).prop_map(|(vcpu, page, writes, after)| Op::ShortReset {
            vcpu,
            page,
            writes,
            after: after % writes,
        }),
        1 => (vcpu, 190u32..850).prop_map(|(vcpu, count)| Op::Overflow { vcpu, count }),
        8 => Just(Op::Round),
        2 => Just(Op::DropEpoch),
        6 => prop_oneof![
            4 => Just(End::Commit),
            1 => Just(End::DropEpoch),
            1 => Just(End::DropSealed),
            1 => Just(End::DeviceFails),
        ].prop_map(Op::Cut),
    ]
}

/// The guest and what the oracle knows of it.
struct World {
    board: Arc<Board>,
    vcpus: Vec<(Vcpu, Option<RingFull>)>,
    clock: u64,
    /// Written by a logged writer since the cut of the last committed epoch.
    written: BTreeSet<Page>,
    /// Written by the kernel without a vCPU since the last collection of the backup bitmap.
    in_backup: BTreeSet<Page>,
    /// Written while its slot's log was off, or forgotten by a bitmap that was freed: owed to nobody.
    excused: BTreeSet<Page>,
}

impl World {
    fn gpa(&self, page: Page) -> u64 {
        self.board.gpa(slot(page.slot), page.offset)
    }

    fn tick(&mut self) -> [u8; 8] {
        self.clock += 1;
        self.clock.to_ne_bytes()
    }

    fn store(&mut self, vcpu: usize, page: Page) {
        self.store_unnoted(vcpu, page);
        self.written.insert(page);
    }

    fn store_unnoted(&mut self, vcpu: usize, page: Page) {
        let (gpa, data) = (self.gpa(page), self.tick());
        loop {
            let (vcpu, ring) = &mut self.vcpus[vcpu];
            match vcpu.store(gpa, &data) {
                Ok(()) => break,
                Err(Exit::DirtyRingFull) => drop(ring.as_ref().unwrap().drain().unwrap()),
                Err(exit) => panic!("{exit:?}"),
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Store { vcpu, page } => self.store(vcpu, page),
            Op::Burst { vcpu, page, count } => {
                for n in 0..count {
                    let offset = (page.offset + n) % NPAGES[usize::from(page.slot)];
                    self.store(vcpu, Page { offset, ..page });
                }
            }
            Op::KvmWrite { vcpu, page } => {
                let (gpa, data) = (self.gpa(page), self.tick());
                // The kernel looks for room only when the vCPU enters the guest.
                self.vcpus[vcpu].0.kvm_write(gpa, &data).unwrap();
                self.written.insert(page);
            }
            Op::Device { page } => {
                let (gpa, data) = (self.gpa(page), self.tick());
                if self.board.vm.device_write(gpa, &data, Writer::VgicTable).unwrap()
                    == ringmark_engine::Marked::Bitmap
                {
                    self.written.insert(page);
                    self.in_backup.insert(page);
                } else {
                    self.excused.insert(page);
                }
            }
            Op::Monitor { page } => {
                let data = self.tick();
                self.board.monitor_write(slot(page.slot), page.offset, &data);
                self.written.insert(page);
            }
            Op::Toggle { slot: id, stores } => {
                self.board.vm.set_memslot_flags(slot(id), 0).unwrap();
                for offset in 0..stores {
                    let page = Page { slot: id, offset };
                    self.store_unnoted(0, page);
                    self.excused.insert(page);
                }
                self.board.vm.set_memslot_flags(slot(id), mem::LOG_DIRTY_PAGES).unwrap();
                // The bits die with the bitmap; with a ring, what the vCPUs wrote is in entries, which do not.
                let ringed = self.board.method.ring_entries().is_some();
                let lost = |page: &Page| page.slot == id;
                let forgotten: Vec<Page> = if ringed { &self.in_backup } else { &self.written }
                    .iter()
                    .copied()
                    .filter(lost)
                    .collect();
                self.excused.extend(forgotten);
                self.in_backup.retain(|page| !lost(page));
            }
            Op::ShortReset { vcpu, page, writes, after } => {
                // A signal after the *last* entry would leave a count that matches; see the negative controls.
                for n in 0..u64::from(writes) {
                    let offset = (page.offset + n) % NPAGES[usize::from(page.slot)];
                    self.apply(Op::KvmWrite { vcpu, page: Page { offset, ..page } });
                }
                if let Some(ring) = &self.vcpus[vcpu].1 {
                    self.board.vm.faults().signal_next_reset_after(after);
                    ring.drain().unwrap();
                    self.board.vm.faults().clear();
                }
            }
            Op::Overflow { vcpu, count } => {
                if self.vcpus[vcpu].1.is_some() {
                    self.board.vm.faults().skip_soft_full_checks(count);
                    self.apply(Op::Burst {
                        vcpu,
                        page: Page { slot: 0, offset: 0 },
                        count: u64::from(count),
                    });
                }
            }
            Op::Round | Op::DropEpoch | Op::Cut(_) => unreachable!(),
        }
    }

    /// At a cut: everything written is in the epoch, and the copy is memory.
    fn check(&mut self, pages: &ringmark_dirty::DirtyPages, image: &Image) {
        let missing: Vec<_> = self
            .written
            .difference(&self.excused)
            .filter(|page| !pages.contains(slot(page.slot), page.offset))
            .collect();
        assert!(missing.is_empty(), "written and not reported: {missing:?}");
        let differences: Vec<_> = image
            .differences(&*self.board)
            .into_iter()
            .filter(|&(slot, offset)| !self.excused.contains(&Page { slot, offset }))
            .collect();
        assert!(differences.is_empty(), "reported and read too early, or not at all: {differences:?}");
    }
}

fn play(profile: Profile, wish: Wish, ops: &[Op]) {
    let board = Board::new(profile, wish, &NPAGES);
    let mut tracker = board.tracker();
    let vcpus: Vec<_> = (0..2)
        .map(|id| {
            let vcpu = board.vm.create_vcpu(id).unwrap();
            let ring = vcpu.ring_memory().map(|memory| tracker.add_ring(id, memory).unwrap());
            (vcpu, ring)
        })
        .collect();
    tracker.arm().unwrap();
    let mut image = board.image();
    let mut stored = image.clone();
    let mut world = World {
        board: Arc::clone(&board),
        vcpus,
        clock: 0,
        written: BTreeSet::new(),
        in_backup: BTreeSet::new(),
        excused: BTreeSet::new(),
    };

    // Every history ends with a cut, so that everything is checked.
    let mut ops = ops.iter().copied().chain([Op::Cut(End::Commit)]).peekable();
    while ops.peek().is_some() {
        let mut epoch = tracker.open().unwrap();
        loop {
            match ops.next() {
                Some(Op::Round) => image.capture(&*board, &epoch.round().unwrap()),
                None | Some(Op::DropEpoch) => {
                    drop(epoch);
                    image.clone_from(&stored);
                    break;
                }
                Some(Op::Cut(end)) => {
                    let vcpus = Counted::default();
                    let cut = epoch.cut().stop(vcpus.clone()).unwrap();
                    let fails = matches!(end, End::DeviceFails);
                    let saved = cut.save_devices(|_| if fails { Err("broken".into()) } else { Ok(()) });
                    let committed = saved.is_ok_and(|(cut, ())| {
                        let cut = cut.seal().unwrap();
                        world.in_backup.clear();
                        image.capture(&*board, cut.pages());
                        world.check(cut.epoch_pages(), &image);
                        if matches!(end, End::DropSealed) {
                            return false;
                        }
                        let epoch = cut.resume().unwrap();
                        assert_eq!(epoch.by_source().total(), epoch.pages().len());
                        let commits = matches!(end, End::Commit);
                        if commits {
                            epoch.commit();
                        }
                        commits
                    });
                    assert!(vcpus.runs());
                    if committed {
                        stored.clone_from(&image);
                        world.written.clear();
                    } else {
                        image.clone_from(&stored);
                    }
                    break;
                }
                Some(op) => world.apply(op),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn x86_rings(ops in prop::collection::vec(op(), 1..120)) {
        play(Profile::x86().reset_stops_on_signal(true), Wish::Ring { entries: Some(256) }, &ops);
    }

    #[test]
    fn arm64_rings_with_backup_bitmaps(ops in prop::collection::vec(op(), 1..120)) {
        play(Profile::arm64().reset_stops_on_signal(true), Wish::Ring { entries: Some(256) }, &ops);
    }

    #[test]
    fn x86_rings_with_a_page_modification_log(ops in prop::collection::vec(op(), 1..80)) {
        play(Profile::x86().pml(true).reset_stops_on_signal(true), Wish::Ring { entries: Some(1024) }, &ops);
    }

    #[test]
    fn bitmaps(ops in prop::collection::vec(op(), 1..120)) {
        play(Profile::x86(), Wish::Bitmap, &ops);
    }
}
