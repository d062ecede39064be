//! Negative controls: each mistake that loses pages is put back, and must be noticed.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm};
use ringmark_dirty::{DirtyPages, FLAG_RESET, PageSize, RingMemory, SlotId};
use ringmark_engine::{Profile, Rule, Vcpu, Writer};
use ringmark_track::{Audit, Tracker, Wish};
use support::board::{Board, Image};
use support::{Counted, slot};

type Hook = Box<dyn Fn() + Send>;

/// The engine's VM with a mistake between it and the tracker.
#[derive(Default)]
struct Sabotage {
    vm: Option<ringmark_engine::Vm>,
    rings: Mutex<Vec<Arc<dyn RingMemory>>>,
    /// Resets are answered, and not made.
    skip_reset: AtomicBool,
    claimed: AtomicU32,
    /// Called before a reset that has something to reset.
    before_reset: Mutex<Option<Hook>>,
}

impl std::fmt::Debug for Sabotage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sabotage")
    }
}

impl Sabotage {
    fn vm(&self) -> &ringmark_engine::Vm {
        self.vm.as_ref().unwrap()
    }

    fn handed_back(&self) -> u32 {
        let rings = self.rings.lock().unwrap();
        let count = rings
            .iter()
            .flat_map(|ring| ring.entries())
            .filter(|entry| entry.flags() & FLAG_RESET != 0)
            .count();
        u32::try_from(count).unwrap()
    }
}

impl Vm for Sabotage {
    fn page_size(&self) -> PageSize {
        self.vm().page_size()
    }
    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.vm().check_extension(cap)
    }
    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.vm().enable_cap(cap)
    }
    #[expect(unsafe_code, reason = "the trait's own")]
    unsafe fn set_user_memory_region(&self, _: &MemoryRegion) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    fn set_memslot_flags(&self, slot: SlotId, flags: u32) -> Result<(), Errno> {
        self.vm().set_memslot_flags(slot, flags)
    }
    fn get_dirty_log(&self, slot: SlotId, bitmap: &mut [u64]) -> Result<(), Errno> {
        self.vm().get_dirty_log(slot, bitmap)
    }
    fn clear_dirty_log(&self, slot: SlotId, first: u64, pages: u32, bitmap: &[u64]) -> Result<(), Errno> {
        self.vm().clear_dirty_log(slot, first, pages, bitmap)
    }
    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        let waiting = self.handed_back();
        if self.skip_reset.load(Ordering::SeqCst) {
            return Ok(waiting - self.claimed.swap(waiting, Ordering::SeqCst));
        }
        if waiting > 0
            && let Some(hook) = self.before_reset.lock().unwrap().take()
        {
            hook();
        }
        self.vm().reset_dirty_rings()
    }
}

struct Rig {
    board: Arc<Board>,
    kernel: Arc<Sabotage>,
    tracker: Tracker,
    vcpu: Vcpu,
    image: Image,
    audit: Audit,
}

/// A guest with one vCPU, its base stored.
fn rig(profile: Profile) -> Rig {
    let board = Board::new(profile, Wish::Ring { entries: Some(256) }, &[64, 64]);
    let kernel = Arc::new(Sabotage { vm: Some(board.vm.clone()), ..Sabotage::default() });
    let mut tracker = board.tracker_of(Arc::clone(&kernel) as _);
    let vcpu = board.vm.create_vcpu(0).unwrap();
    let ring = vcpu.ring_memory().unwrap();
    kernel.rings.lock().unwrap().push(Arc::clone(&ring));
    tracker.add_ring(0, ring).unwrap();
    board.vm.set_strict(true);
    tracker.arm().unwrap();
    let audit = Audit::begin(&board.slots, &*board).unwrap().with_reports(tracker.remember_reports());
    let mut rig = Rig { image: board.image(), board, kernel, tracker, vcpu, audit };
    assert_eq!(rig.cut(|_| {}), Found::default());
    rig
}

/// What the checks found at a cut.
#[derive(Debug, Default)]
struct Found {
    escapes: Vec<(u16, u64)>,
    /// Of each escape, what is said of who ought to have seen it.
    said: Vec<String>,
    differences: Vec<(u16, u64)>,
}

/// What is said is compared where it matters.
impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.escapes == other.escapes && self.differences == other.differences
    }
}

impl Found {
    fn pages<const N: usize>(pages: [(u16, u64); N]) -> Self {
        Self { escapes: pages.to_vec(), said: Vec::new(), differences: pages.to_vec() }
    }
}

impl Rig {
    fn store(&mut self, page: u64, value: u8) {
        self.vcpu.store(self.board.gpa(slot(0), page), &[value]).unwrap();
    }

    fn cut(&mut self, late: impl FnOnce(&Board)) -> Found {
        let Self { board, tracker, image, audit, .. } = self;
        let cut = tracker.open().unwrap().cut().stop(Counted::default()).unwrap();
        let cut = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
        late(board);
        image.capture(&**board, cut.pages());
        let differences = image.differences(&**board);
        let escapes = audit.observe(&**board, cut.epoch_pages()).unwrap().escapes;
        cut.resume().unwrap().commit();
        Found {
            escapes: escapes.iter().map(|escape| (escape.slot.id(), escape.offset)).collect(),
            said: escapes.iter().map(ToString::to_string).collect(),
            differences,
        }
    }
}

#[test]
fn the_right_order_finds_nothing() {
    let mut rig = rig(Profile::arm64());
    for value in 1..20 {
        rig.store(5, value);
        rig.board.vm.device_write(rig.board.gpa(slot(1), 3), &[value], Writer::VgicTable).unwrap();
        rig.board.monitor_write(slot(1), 9, &[value]);
        assert_eq!(rig.cut(|_| {}), Found::default());
    }
    assert_eq!(rig.board.vm.violations(), []);
}

#[test]
fn a_skipped_reset_is_noticed() {
    let mut rig = rig(Profile::x86());
    rig.kernel.skip_reset.store(true, Ordering::SeqCst);
    rig.store(5, 1);
    assert_eq!(rig.cut(|_| {}), Found::default(), "the first write is still logged");
    rig.store(5, 2);
    let found = rig.cut(|_| {});
    assert_eq!(found, Found::pages([(0, 5)]));
    let ought = "last reported by the dirty rings in the epoch before, so that source ought to have seen it";
    assert!(found.said[0].ends_with(ought), "{}", found.said[0]);
    assert_eq!(
        rig.tracker.events().total(),
        0,
        "a kernel that lies about its count is caught by the audit alone"
    );
}

#[test]
fn a_page_read_before_its_reset_is_noticed() {
    for reads_early in [true, false] {
        let mut rig = rig(Profile::x86());
        rig.store(5, 1);
        let early = Arc::new(Mutex::new(rig.image.clone()));
        let (board, copy) = (Arc::clone(&rig.board), Arc::clone(&early));
        let vcpu = Mutex::new(rig.vcpu);
        let hook = move || {
            let mut all = DirtyPages::new(&board.slots);
            all.insert_all();
            copy.lock().unwrap().capture(&*board, &all);
            // Between harvest and reset: the page is still writable, and this store goes unlogged.
            vcpu.lock().unwrap().store(board.gpa(slot(0), 5), &[2]).unwrap();
        };
        *rig.kernel.before_reset.lock().unwrap() = Some(Box::new(hook));

        let mut epoch = rig.tracker.open().unwrap();
        let pages = epoch.round().unwrap();
        assert!(pages.contains(slot(0), 5));
        if reads_early {
            rig.image = early.lock().unwrap().clone();
        } else {
            rig.image.capture(&*rig.board, &pages);
        }
        let cut = epoch.cut().stop(Counted::default()).unwrap();
        let cut = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
        rig.image.capture(&*rig.board, cut.pages());
        let expected = if reads_early { vec![(0, 5)] } else { vec![] };
        assert_eq!(rig.image.differences(&*rig.board), expected);
    }
}

#[test]
fn tables_saved_after_the_bitmap_was_collected_are_noticed() {
    let mut rig = rig(Profile::arm64());
    let found = rig.cut(|board| {
        board.vm.device_write(board.gpa(slot(1), 3), &[1], Writer::VgicTable).unwrap();
        board.vm.declare_complete();
    });
    assert_eq!(found, Found::pages([(1, 3)]));
    let violations = rig.board.vm.violations();
    assert_eq!(violations.len(), 1);
    assert_eq!(
        (violations[0].rule, violations[0].slot, violations[0].offset),
        (Rule::CollectedTooEarly, slot(1), 3)
    );
    // It is late, and not lost for ever: the next epoch has it.
    assert_eq!(rig.cut(|_| {}), Found::default());
}

#[test]
fn a_write_of_the_monitor_that_is_not_marked_is_noticed() {
    let mut rig = rig(Profile::x86());
    rig.board.unmarked_write(slot(1), 9, 1);
    let found = rig.cut(|_| {});
    assert_eq!(found, Found::pages([(1, 9)]));
    let ought = "no source has reported it before, and one of these ought to have seen it: the dirty rings, the monitor's own \
                 writes";
    assert!(found.said[0].ends_with(ought), "{}", found.said[0]);
    rig.board.monitor_write(slot(1), 9, &[2]);
    assert_eq!(rig.cut(|_| {}), Found::default());
    assert_eq!(rig.cut(|_| {}), Found::default());
    rig.board.unmarked_write(slot(1), 9, 3);
    let found = rig.cut(|_| {});
    let ought =
        "last reported by the monitor's own writes 2 epochs ago, so that source ought to have seen it";
    assert!(found.said[0].ends_with(ought), "{}", found.said[0]);
}

#[test]
fn a_device_write_that_a_ring_alone_drops_is_noticed() {
    let mut rig = rig(Profile::x86());
    rig.board.vm.device_write(rig.board.gpa(slot(1), 7), &[1], Writer::Other).unwrap();
    assert_eq!(rig.cut(|_| {}), Found::pages([(1, 7)]));
}

/// The kernel looks for a signal before each entry, also before the one that is not there: a signal after the last
/// entry leaves the last batch unprotected and the count right. No check of the count can see it; blocked signals
/// prevent it.
#[test]
fn a_reset_interrupted_after_its_last_entry_is_noticed_by_the_audit_alone() {
    let mut rig = rig(Profile::x86().reset_stops_on_signal(true));
    rig.store(5, 1);
    rig.board.vm.faults().signal_next_reset_after(1);
    assert_eq!(rig.cut(|_| {}), Found::default());
    assert_eq!(rig.tracker.events().total(), 0);
    rig.store(5, 2);
    assert_eq!(rig.cut(|_| {}), Found::pages([(0, 5)]));
}

/// The engine knows which pages changed and were in no log: the audit names the same.
#[test]
fn the_audit_names_what_the_engine_knows_to_be_unreported() {
    let mut rig = rig(Profile::x86());
    let mut random = fastrand::Rng::with_seed(7);
    let mut escaped = 0;
    for round in 1..=40_u8 {
        for _ in 0..random.u64(0..8) {
            rig.store(random.u64(0..64), round);
        }
        for _ in 0..random.u64(0..4) {
            // With a ring alone the kernel drops it.
            let gpa = rig.board.gpa(slot(1), random.u64(0..64));
            rig.board.vm.device_write(gpa, &[round], Writer::Other).unwrap();
        }
        let mut known = Vec::new();
        let found = rig.cut(|board| {
            known = board.vm.unreported().into_iter().map(|(slot, page)| (slot.id(), page)).collect();
        });
        // The engine goes on knowing of a page until somebody reports it, the audit names it once a change.
        assert!(found.escapes.iter().all(|page| known.contains(page)), "{:?} of {known:?}", found.escapes);
        assert_eq!(known.iter().filter(|page| !found.differences.contains(page)).count(), 0);
        escaped += found.escapes.len();
    }
    assert!(escaped > 20, "{escaped} escapes");
}
