//! A machine moves, and what its translation services know moves with it.

use ringmark_machine::HypervisorWish;
use ringmark_migrate::send::SendOptions;
use ringmark_track::AuditRate;

use crate::common::{checkpoint, let_write, store};
use crate::moving::moved;
use crate::tables::{LIMIT, Subject, on_each};

#[test]
fn interrupts_go_on_after_a_move() {
    on_each("interrupts_go_on_after_a_move", |hypervisor| {
        let (_dir, store) = store();
        let mut subject = Subject::start(hypervisor);
        // The tables are written to memory when the vCPUs have stopped: they are in the last set, or the audit says so.
        let options =
            SendOptions { audit: Some(AuditRate::EVERY_PAGE), verify_full: true, ..SendOptions::default() };
        for _ in 0..3 {
            subject.take_interrupts(50);
            let (_, arrived) = moved(&subject.machine, &options, hypervisor);
            subject = Subject::of(arrived, hypervisor);
            // On bare metal this raises every event and waits for it.
            let report = subject.machine.check(LIMIT).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((report.guest.damaged, report.memory.damaged), (0, 0), "{report:?}");
            if hypervisor == HypervisorWish::Engine {
                subject.take_every_interrupt();
            }
            subject.take_interrupts(50);
        }
        // Reading the tables back has written memory there, and its checkpoints know of it.
        checkpoint(&subject.machine, &store);
        let_write(&subject.machine, 200);
        subject.take_interrupts(50);
        let taken = checkpoint(&subject.machine, &store);
        assert!(taken.by_source.bitmap > 0, "{:?}", taken.by_source);
        assert_eq!(subject.machine.check(LIMIT).unwrap().memory.damaged, 0);
    });
}
