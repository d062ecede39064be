//! The negative control: the bitmap collected before the tables are saved, which only a test can ask for.

#![cfg(feature = "mutants")]

use std::time::Instant;

use ringmark_dirty::mutant::{self, Mutant};
use ringmark_image::Store;
use ringmark_machine::{CheckpointError, CheckpointOptions};
use ringmark_track::{Escape, SourceKind};

use crate::common::{checkpoint, store};
use crate::tables::{LIMIT, Subject, on_each};

/// Puts the right order back, however the test ends.
struct Reversed;

impl Reversed {
    fn now() -> Self {
        mutant::set(Some(Mutant::BitmapBeforeTables));
        Self
    }
}

impl Drop for Reversed {
    fn drop(&mut self) {
        mutant::set(None);
    }
}

/// What is lost at one checkpoint in the wrong order, a moment after one in the right order.
fn lost(subject: &Subject, store: &Store) -> Vec<Escape> {
    // The guest is let run for a moment only: what it unmaps, its vCPU clears in the same tables, and the rings have that.
    subject.machine.pause().unwrap();
    checkpoint(&subject.machine, store);
    subject.machine.resume().unwrap();
    subject.take_interrupts(1);
    subject.machine.pause().unwrap();
    let reversed = Reversed::now();
    let taken = subject.machine.checkpoint(store, CheckpointOptions::default(), &mut |_| {});
    drop(reversed);
    subject.machine.resume().unwrap();
    match taken {
        Ok(_) => Vec::new(),
        Err(CheckpointError::Escapes(escapes)) => escapes,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_audit_names_the_tables_that_the_wrong_order_loses() {
    on_each("the_audit_names_the_tables_that_the_wrong_order_loses", |hypervisor| {
        let (_dir, store) = store();
        let subject = Subject::start(hypervisor);
        let (tables, pending) = (subject.table_pages(), subject.pending_pages());
        let mut named = [false; 2];
        // Which event the guest maps anew is left to chance, and how many of them to the time it gets.
        let (begun, mut cuts) = (Instant::now(), 0);
        while named != [true; 2] && begun.elapsed() < LIMIT {
            cuts += 1;
            for escape in lost(&subject, &store) {
                let page = escape.gfn.0;
                assert!(tables.contains(&page) || pending.contains(&page), "{escape}");
                assert!(escape.ought.contains(SourceKind::Bitmap), "{escape}");
                for (its, named) in (0..).zip(&mut named) {
                    *named |= tables.contains(&page) && subject.is_of(page, its);
                }
            }
        }
        eprintln!("{cuts} cuts in the wrong order");
        assert_eq!(named, [true; 2], "of each ITS the audit names a table page that was lost");
        // In the right order the same machine goes on, from a base.
        subject.take_interrupts(50);
        assert_eq!(checkpoint(&subject.machine, &store).parent, None);
        subject.take_interrupts(50);
        checkpoint(&subject.machine, &store);
    });
}
