//! Tables arrive through the backup bitmap, at every checkpoint, and interrupts arrive in restored machines.

use std::io;

use ringmark_guest::Pattern;
use ringmark_machine::{CreateError, Loading, Machine, RestoreOptions};
use ringmark_track::{AuditRate, Wish};

use crate::common::{checkpoint, create, guest, let_write, store};
use crate::tables::{LIMIT, Subject, lost, on_each};

#[test]
fn tables_come_by_the_bitmap_and_interrupts_arrive_again() {
    on_each("tables_come_by_the_bitmap_and_interrupts_arrive_again", |hypervisor| {
        let (_dir, store) = store();
        let subject = Subject::start(hypervisor);
        let tables = subject.table_pages();
        let maybe: Vec<u64> = subject.pending_pages().into_iter().collect();
        let mut images = Vec::new();
        for number in 0..3 {
            let_write(&subject.machine, 200);
            subject.take_interrupts(50);
            let taken = checkpoint(&subject.machine, &store);
            assert_eq!(taken.parent, images.last().copied(), "checkpoint {number}");
            assert_eq!(taken.by_source.event, 0, "{:?}", subject.machine.take_events());
            assert!(taken.audit.is_some(), "every cut is audited, and no page escaped");
            let bitmap = subject.in_last_bitmap();
            assert!(bitmap.is_superset(&tables), "checkpoint {number}: {:x?}", &tables - &bitmap);
            if number > 0 {
                assert!(taken.by_source.ring > 0 && taken.by_source.bitmap > 0, "{:?}", taken.by_source);
            }
            images.push(taken.image);
        }

        // With the vCPUs at rest the tables are all that is written, and no ring has any of it.
        subject.machine.pause().unwrap();
        checkpoint(&subject.machine, &store);
        let taken = checkpoint(&subject.machine, &store);
        assert_eq!(taken.by_source.ring, 0, "{:?}", taken.by_source);
        let bitmap = subject.in_last_bitmap();
        assert_eq!(taken.by_source.bitmap, bitmap.len() as u64, "{:?}", taken.by_source);
        assert!(bitmap.is_superset(&tables), "{:x?}", &tables - &bitmap);
        assert!((&bitmap - &tables).iter().all(|page| maybe.contains(page)), "{:x?}", &bitmap - &tables);
        drop(subject);

        for id in images {
            let options = RestoreOptions {
                name: None,
                hypervisor,
                tracking: Wish::Ring { entries: Some(4096) },
                audit: Some(AuditRate::EVERY_PAGE),
                loading: Loading::Eager,
            };
            let image = store.image(id).unwrap();
            let restored = Machine::restore(&store, &image, options, Box::new(io::sink()))
                .unwrap_or_else(|e| panic!("{e}"));
            let report = restored.check_memory().unwrap();
            assert_eq!(lost(&report, hypervisor), 0, "{report:?}");
            let restored = Subject::of(restored, hypervisor);
            restored.machine.resume().unwrap();
            // On bare metal this raises every event and waits for it.
            let report = restored.machine.check(LIMIT).unwrap_or_else(|e| panic!("{e}"));
            let found = [&report.guest, &report.memory].map(|report| lost(report, hypervisor));
            assert_eq!(found, [0, 0], "{report:?}");
            if hypervisor == ringmark_machine::HypervisorWish::Engine {
                restored.take_every_interrupt();
            }
            restored.take_interrupts(50);
            // Reading the tables back has written memory, too: what that changed is in this epoch, or the audit says so.
            let next = checkpoint(&restored.machine, &store);
            assert_eq!(next.parent, Some(id));
            assert!(next.by_source.bitmap > 0, "{:?}", next.by_source);
            let report = restored.machine.check(LIMIT).unwrap();
            assert_eq!(lost(&report.memory, hypervisor), 0, "{report:?}");
        }
    });
}

#[test]
fn a_machine_without_translation_services_has_no_tables() {
    on_each("a_machine_without_translation_services_has_no_tables", |hypervisor| {
        let (_dir, store) = store();
        let mut config = guest(hypervisor, Wish::Auto, Pattern::Sequential);
        config.memory = 16 << 20;
        config.its = 0;
        let machine = create(config);
        machine.resume().unwrap();
        let_write(&machine, 100);
        checkpoint(&machine, &store);
        let_write(&machine, 100);
        let taken = checkpoint(&machine, &store);
        assert_eq!(taken.by_source.bitmap, 0, "{:?}", taken.by_source);
        let image = store.image(taken.image).unwrap();
        let options = RestoreOptions {
            name: None,
            hypervisor,
            tracking: Wish::Auto,
            audit: None,
            loading: Loading::Eager,
        };
        let restored =
            Machine::restore(&store, &image, options, Box::new(io::sink())).unwrap_or_else(|e| panic!("{e}"));
        restored.resume().unwrap();
        assert_eq!(restored.check(LIMIT).unwrap().guest.damaged, 0);
    });
}

#[test]
fn more_translation_services_than_there_may_be_are_refused() {
    on_each("more_translation_services_than_there_may_be_are_refused", |hypervisor| {
        let mut config = guest(hypervisor, Wish::Auto, Pattern::Sequential);
        config.its = 5;
        let refused = Machine::create(config, Box::new(io::sink()));
        assert!(matches!(refused, Err(CreateError::Translators(5))), "{refused:?}");
    });
}
