//! The cut: order, ownership of pages, and what the guest does when a step fails.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringmark_abi::{Errno, mem};
use ringmark_track::{
    Collected, Event, GuestState, Method, MonitorLog, Source, SourceError, SourceKind, Step, TrackError,
    Tracker,
};
use support::{Counted, PAGE, Script, page_size, slot, table};

struct Rig {
    vm: Arc<Script>,
    tracker: Tracker,
    log: MonitorLog,
    vcpus: Counted,
}

/// A VM of two slots, tracked with bitmaps, whose base is committed.
fn rig() -> Rig {
    let vm = Script::new(&[]);
    let slots = table(&[100, 70]);
    let log = MonitorLog::new(&slots, page_size());
    let mut tracker = Tracker::new(Arc::clone(&vm) as _, slots, Method::Bitmap).unwrap();
    tracker.add_source(Box::new(log.source())).unwrap();
    tracker.arm().unwrap();
    let mut rig = Rig { vm, tracker, log, vcpus: Counted::default() };
    rig.commit();
    rig
}

impl Rig {
    fn write(&self, page: u64) {
        self.log.slot(slot(0)).unwrap().mark(page * PAGE, 1);
    }

    /// One whole epoch; the pages of slot 0 in it.
    fn commit(&mut self) -> Vec<u64> {
        let cut = self.tracker.open().unwrap().cut().stop(self.vcpus.clone()).unwrap();
        let (cut, ()) = cut.save_devices(|_| Ok(())).unwrap();
        let epoch = cut.seal().unwrap().resume().unwrap();
        let pages = epoch.pages().slot(slot(0)).unwrap().iter().collect();
        assert_eq!(epoch.by_source().total(), epoch.pages().len());
        epoch.commit();
        pages
    }
}

#[test]
fn the_first_epoch_is_every_page() {
    let slots = table(&[100, 70]);
    let mut tracker = Tracker::new(Script::new(&[]) as _, slots, Method::Bitmap).unwrap();
    assert!(matches!(tracker.open(), Err(TrackError::NotArmed)));
    tracker.arm().unwrap();
    let mut epoch = tracker.open().unwrap();
    assert_eq!(epoch.round().unwrap().len(), 170);
    assert_eq!(epoch.by_source().carried, 170);
    assert_eq!(epoch.round().unwrap().len(), 0);
    assert_eq!(epoch.pages().len(), 170);
}

#[test]
fn a_committed_epoch_is_gone_and_an_uncommitted_one_comes_back() {
    let mut rig = rig();
    rig.write(3);
    assert_eq!(rig.commit(), [3]);
    assert_eq!(rig.commit(), [0; 0]);

    rig.write(4);
    let mut epoch = rig.tracker.open().unwrap();
    assert_eq!(epoch.round().unwrap().len(), 1);
    drop(epoch);
    rig.write(5);
    let cut = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap();
    let epoch = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap().resume().unwrap();
    assert_eq!((epoch.by_source().carried, epoch.by_source().monitor), (1, 1));
    drop(epoch);
    assert_eq!(rig.commit(), [4, 5]);
    assert_eq!(rig.commit(), [0; 0]);
}

#[test]
fn rounds_give_each_page_once_and_the_cut_the_rest() {
    let mut rig = rig();
    rig.write(1);
    let log = rig.log.clone();
    let mut epoch = rig.tracker.open().unwrap();
    assert!(epoch.round().unwrap().contains(slot(0), 1));
    log.slot(slot(0)).unwrap().mark(2 * PAGE, 1);
    let (cut, ()) = epoch.cut().stop(rig.vcpus.clone()).unwrap().save_devices(|_| Ok(())).unwrap();
    let cut = cut.seal().unwrap();
    assert_eq!(cut.pages().iter().collect::<Vec<_>>(), [(slot(0), 2)]);
    assert_eq!(cut.epoch_pages().len(), 2);
    cut.resume().unwrap().commit();
}

#[test]
fn a_cut_that_is_called_off_goes_on_with_its_epoch() {
    let mut rig = rig();
    let (log, vcpus) = (rig.log.clone(), rig.vcpus.clone());
    let mark = |page: u64| log.slot(slot(0)).unwrap().mark(page * PAGE, 1);
    mark(1);
    let mut epoch = rig.tracker.open().unwrap();
    epoch.round().unwrap();
    mark(2);
    let cut = epoch.cut().stop(vcpus.clone()).unwrap().save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
    assert_eq!(cut.pages().len(), 1);
    // A write after the seal is no reason not to go on.
    mark(3);
    let mut epoch = cut.call_off().unwrap();
    assert!(vcpus.runs());
    mark(4);
    let pages: Vec<_> = epoch.round().unwrap().iter().map(|(_, page)| page).collect();
    assert_eq!(pages, [2, 3, 4], "what was sealed and not copied comes with the next round");
    assert_eq!(epoch.pages().len(), 4);
    drop(epoch);
    assert_eq!(rig.commit(), [1, 2, 3, 4]);
}

#[test]
fn a_consumer_goes_on_with_what_it_has_acknowledged() {
    let mut rig = rig();
    let (log, vcpus) = (rig.log.clone(), rig.vcpus.clone());
    let mark = |page: u64| log.slot(slot(0)).unwrap().mark(page * PAGE, 1);
    let numbers = |pages: &ringmark_dirty::DirtyPages| pages.iter().map(|(_, page)| page).collect::<Vec<_>>();
    (0..6).for_each(mark);
    let mut epoch = rig.tracker.open().unwrap();
    let round = epoch.round().unwrap();
    epoch.acknowledge(7, &round);
    mark(1);
    let again = epoch.round().unwrap();
    assert_eq!(numbers(&again), [1], "handed out, and not acknowledged");
    mark(2);
    // Harvested by a cut that fails.
    let cut = epoch.cut().stop(vcpus).unwrap().save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
    drop(cut);
    mark(3);
    assert!(rig.tracker.can_go_on(7) && !rig.tracker.can_go_on(8));
    let mut epoch = rig.tracker.open().unwrap();
    assert!(!epoch.go_on(8) && epoch.go_on(7));
    assert_eq!(numbers(&epoch.round().unwrap()), [1, 2, 3]);
    drop(epoch);

    // Whoever does not go on gets everything, and what was harvested by then is not acknowledged any more.
    let mut epoch = rig.tracker.open().unwrap();
    assert_eq!(numbers(&epoch.round().unwrap()), [0, 1, 2, 3, 4, 5]);
    drop(epoch);
    let mut epoch = rig.tracker.open().unwrap();
    assert!(epoch.go_on(7));
    assert_eq!(numbers(&epoch.round().unwrap()), [1, 2, 3]);
    drop(epoch);

    // Somebody else takes all of it, and what was written by then, and what is written afterwards.
    mark(4);
    assert_eq!(rig.commit(), [0, 1, 2, 3, 4, 5]);
    mark(0);
    assert_eq!(rig.commit(), [0]);
    assert!(rig.tracker.can_go_on(7));
    let mut epoch = rig.tracker.open().unwrap();
    assert!(epoch.go_on(7));
    assert!(epoch.round().unwrap().is_empty(), "nothing is anybody's any more");
    assert_eq!(
        numbers(epoch.acknowledged(7).unwrap()),
        [5],
        "but the consumer holds no page that was written"
    );
    drop(epoch);
    rig.tracker.arm().unwrap();
    assert!(!rig.tracker.can_go_on(7), "a new base knows nothing of what came before");
}

#[test]
fn what_waits_is_counted_without_being_taken() {
    let vm = Script::new(&[]);
    let slots = table(&[100, 70]);
    let log = MonitorLog::new(&slots, page_size());
    let mut tracker = Tracker::new(Arc::clone(&vm) as _, slots, Method::Ring { entries: 256 }).unwrap();
    let (ring, memory) = vm.ring(256);
    tracker.add_ring(0, memory).unwrap();
    tracker.add_source(Box::new(log.source())).unwrap();
    tracker.arm().unwrap();
    let mut epoch = tracker.open().unwrap();
    assert_eq!(epoch.pending(), Some(170), "the base was not handed out yet");
    epoch.round().unwrap();
    assert_eq!(epoch.pending(), Some(0));
    ring.push(slot(0), 5);
    log.slot(slot(1)).unwrap().mark(0, 2 * PAGE);
    assert_eq!((epoch.pending(), epoch.pending()), (Some(3), Some(3)));
    assert_eq!(epoch.round().unwrap().len(), 3);

    let mut bitmaps = rig();
    assert_eq!(bitmaps.tracker.open().unwrap().pending(), None, "only a harvest can tell");
}

#[test]
fn dropping_any_state_rolls_back_and_resumes() {
    let mut rig = rig();
    let counts = rig.vcpus.counts();
    rig.write(7);
    drop(rig.tracker.open().unwrap().cut());
    assert_eq!(rig.vcpus.counts(), counts);

    drop(rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap());
    assert!(rig.vcpus.runs());

    let cut = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap();
    drop(cut.save_devices(|_| Ok(())).unwrap().0);
    assert!(rig.vcpus.runs());

    let cut = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap();
    drop(cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap());
    assert!(rig.vcpus.runs());
    assert_eq!(rig.vcpus.counts(), (counts.0 + 3, counts.1 + 3));
    assert_eq!(rig.commit(), [7]);
}

#[test]
fn failing_steps_say_which_and_what_the_guest_does() {
    let mut rig = rig();
    rig.write(9);

    rig.vcpus.refuse_stop(true);
    let error = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap_err();
    assert_eq!((error.step, &error.guest), (Step::Stop, &GuestState::Running));
    assert!(rig.vcpus.runs());
    rig.vcpus.refuse_stop(false);

    let cut = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap();
    let error = cut.save_devices(|_| Err::<(), _>("the table lies outside memory".into())).unwrap_err();
    assert_eq!((error.step, &error.guest), (Step::SaveDevices, &GuestState::Running));
    assert_eq!(
        error.to_string(),
        "saving the devices failed: the table lies outside memory; the guest runs on, and the next epoch contains the \
         pages of this one"
    );

    let cut = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap();
    let cut = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
    rig.vcpus.refuse_resume(true);
    let error = cut.resume().unwrap_err();
    assert_eq!(error.step, Step::Resume);
    assert!(matches!(error.guest, GuestState::Stopped { .. }), "{error}");
    assert!(matches!(rig.tracker.events().take().last(), Some(Event::NotResumed { .. })));
    rig.vcpus.refuse_resume(false);
    assert_eq!(rig.commit(), [9]);
}

#[test]
fn a_panic_while_devices_are_saved_loses_nothing() {
    let mut rig = rig();
    rig.write(11);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let cut = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap();
        let _ = cut.save_devices(|_| -> Result<(), _> { panic!("device") });
    }));
    assert!(panicked.is_err() && rig.vcpus.runs());
    assert_eq!(rig.commit(), [11]);
}

#[test]
fn an_unfinished_write_keeps_the_cut_from_being_sealed() {
    let mut rig = rig();
    let guard = rig.log.slot(slot(1)).unwrap().write(PAGE, 2 * PAGE);
    let cut = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap();
    let error = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap_err();
    assert_eq!(error.step, Step::Seal);
    assert!(error.to_string().contains("1 writes of the monitor"), "{error}");
    drop(guard);
    let mut epoch = rig.tracker.open().unwrap();
    assert_eq!(epoch.round().unwrap().iter().collect::<Vec<_>>(), [(slot(1), 1), (slot(1), 2)]);
}

#[test]
fn a_write_after_the_seal_is_refused() {
    let mut rig = rig();
    let cut = rig.tracker.open().unwrap().cut().stop(rig.vcpus.clone()).unwrap();
    let cut = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
    rig.log.slot(slot(0)).unwrap().mark(0, 1);
    let error = cut.resume().unwrap_err();
    assert_eq!((error.step, error.guest), (Step::Resume, GuestState::Running));
    assert_eq!(rig.commit(), [0]);
}

/// A source that gives one page and then fails.
struct Failing(Arc<AtomicBool>);

impl Source for Failing {
    fn kind(&self) -> SourceKind {
        SourceKind::Other
    }
    fn arm(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
    fn harvest(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        if self.0.swap(false, Ordering::SeqCst) {
            into.insert(slot(0), 42).unwrap();
            return Err(SourceError::Other("vhost went away".into()));
        }
        Ok(())
    }
    fn disarm(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

#[test]
fn what_a_failing_source_gave_up_is_kept() {
    let fails = Arc::new(AtomicBool::new(false));
    let mut tracker = Tracker::new(Script::new(&[]) as _, table(&[100]), Method::Bitmap).unwrap();
    tracker.add_source(Box::new(Failing(Arc::clone(&fails)))).unwrap();
    tracker.arm().unwrap();
    assert!(matches!(tracker.add_source(Box::new(Failing(Arc::clone(&fails)))), Err(TrackError::Armed)));
    let mut vcpus = Counted::default();
    let cut = tracker.open().unwrap().cut().stop(&mut vcpus).unwrap();
    cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap().resume().unwrap().commit();

    fails.store(true, Ordering::SeqCst);
    let mut epoch = tracker.open().unwrap();
    let error = epoch.round().unwrap_err();
    assert_eq!(
        (error.kind, error.to_string().as_str()),
        (SourceKind::Other, "a further source could not be harvested: vhost went away")
    );
    assert_eq!(epoch.round().unwrap().iter().collect::<Vec<_>>(), [(slot(0), 42)]);
    assert_eq!(epoch.by_source().other, 1);
}

#[test]
fn a_failed_dirty_log_makes_the_slot_dirty_and_a_good_one_is_cleared_exactly() {
    let mut rig = rig();
    rig.vm.log.lock().unwrap().insert(slot(0), vec![0b1010, 1 << 35]);
    *rig.vm.refuse_get.lock().unwrap() = Some((slot(1), Errno::EFAULT));
    let events = rig.tracker.events();
    let mut epoch = rig.tracker.open().unwrap();
    let pages = epoch.round().unwrap();
    assert_eq!(pages.slot(slot(0)).unwrap().iter().collect::<Vec<_>>(), [1, 3, 99]);
    assert_eq!(pages.slot(slot(1)).unwrap().len(), 70);
    assert_eq!((epoch.by_source().bitmap, epoch.by_source().event), (3, 70));
    assert_eq!(events.take(), [Event::DirtyLogFailed { slot: slot(1), errno: Errno::EFAULT }]);
    assert_eq!(*rig.vm.cleared.lock().unwrap(), [(slot(0), 0, 100, vec![0b1010, 1 << 35])]);
}

#[test]
fn arming_switches_every_log_on_and_disarming_off() {
    let vm = Script::new(&[]);
    let mut tracker = Tracker::new(Arc::clone(&vm) as _, table(&[10, 10, 10]), Method::Bitmap).unwrap();
    *vm.refuse_flags.lock().unwrap() = Some((slot(2), Errno::ENOMEM));
    let error = tracker.arm().unwrap_err();
    assert!(matches!(error, TrackError::Log { on: true, errno: Errno::ENOMEM, .. }), "{error}");
    let on = mem::LOG_DIRTY_PAGES;
    assert_eq!(*vm.flags.lock().unwrap(), [(slot(0), on), (slot(1), on), (slot(0), 0), (slot(1), 0)]);
    assert!(!tracker.is_armed());

    *vm.refuse_flags.lock().unwrap() = None;
    tracker.arm().unwrap();
    vm.flags.lock().unwrap().clear();
    drop(tracker);
    assert_eq!(*vm.flags.lock().unwrap(), [(slot(0), 0), (slot(1), 0), (slot(2), 0)]);
}

/// A set flag that is set again changes nothing in KVM, and protects nothing.
/// What is held elsewhere already is no page of the first epoch; what was written since is, and nothing from before.
#[test]
fn armed_after_a_restore_the_first_epoch_is_no_base() {
    let mut rig = rig();
    rig.write(5);
    rig.tracker.arm_after_restore().unwrap();
    assert_eq!(rig.commit(), [0; 0]);
    rig.write(7);
    assert_eq!(rig.commit(), [7]);
    // Where the log cannot be had nothing is armed, and the next arming is a base again.
    *rig.vm.refuse_flags.lock().unwrap() = Some((slot(1), Errno::ENOMEM));
    assert!(rig.tracker.arm_after_restore().is_err() && !rig.tracker.is_armed());
    *rig.vm.refuse_flags.lock().unwrap() = None;
    rig.tracker.arm().unwrap();
    assert_eq!(rig.tracker.open().unwrap().round().unwrap().len(), 170);
}

#[test]
fn arming_again_protects_every_page_anew_and_is_a_base() {
    let vm = Script::new(&[]);
    let mut tracker = Tracker::new(Arc::clone(&vm) as _, table(&[10, 20]), Method::Bitmap).unwrap();
    tracker.arm().unwrap();
    let on = mem::LOG_DIRTY_PAGES;
    vm.flags.lock().unwrap().clear();
    tracker.arm().unwrap();
    let toggled = [(slot(0), 0), (slot(1), 0), (slot(0), on), (slot(1), on)];
    assert_eq!(*vm.flags.lock().unwrap(), toggled);
    assert_eq!(tracker.open().unwrap().round().unwrap().len(), 30);

    *vm.refuse_flags.lock().unwrap() = Some((slot(1), Errno::ENOMEM));
    tracker.arm().unwrap_err();
    assert!(matches!(tracker.open(), Err(TrackError::NotArmed)), "an epoch on half a log would miss pages");
}
