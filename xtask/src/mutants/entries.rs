//! Every mutant and its catcher.

use ringmark_dirty::mutant::Mutant;

use super::catalogue::{Catcher, Entry, Program};

/// The entry of `mutant`.
pub(super) fn of(mutant: Mutant) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.mutant == mutant)
}

const fn entry(
    mutant: Mutant,
    rows: &'static [u8],
    mistake: &'static str,
    catcher: Catcher,
    says: &'static str,
) -> Entry {
    Entry { mutant, mistake, rows, catcher, says }
}

const fn dirty(test: &'static str, name: &'static str) -> Catcher {
    Catcher { program: Program::Integration("ringmark-dirty", test), test: name }
}

const fn loom(name: &'static str) -> Catcher {
    Catcher { program: Program::Loom, test: name }
}

const fn track(test: &'static str, name: &'static str) -> Catcher {
    Catcher { program: Program::Integration("ringmark-track", test), test: name }
}

/// Every order of events, against the engine.
const fn explorer(name: &'static str) -> Catcher {
    Catcher { program: Program::Unit("ringmark-track"), test: name }
}

const fn machine(name: &'static str) -> Catcher {
    Catcher { program: Program::Integration("ringmark-machine", "checkpoint"), test: name }
}

const fn lazy(name: &'static str) -> Catcher {
    Catcher { program: Program::Unit("ringmark-machine"), test: name }
}

const fn image(name: &'static str) -> Catcher {
    Catcher { program: Program::Integration("ringmark-image", "store"), test: name }
}

/// Guests that move while they write, on the engine.
const fn beside(name: &'static str) -> Catcher {
    Catcher { program: Program::Integration("ringmark-migrate", "beside"), test: name }
}

const LOST: &str = "is lost";
const NOT_AS_WRITTEN: &str = "is not as it was written last";
const RACE: &str = "Causality violation";

pub(super) const ENTRIES: &[Entry] = &[
    entry(
        Mutant::HandBackBeforeRead,
        &[],
        "an entry goes back to the kernel before slot and offset are read",
        loom("push_harvest_and_reset_at_once"),
        RACE,
    ),
    entry(
        Mutant::FlagReadRelaxed,
        &[],
        "the flags of an entry are loaded without acquire",
        loom("push_harvest_and_reset_at_once"),
        RACE,
    ),
    entry(
        Mutant::FlagWrittenRelaxed,
        &[],
        "the flags of an entry are stored without release",
        loom("push_harvest_and_reset_at_once"),
        RACE,
    ),
    entry(
        Mutant::GapSeenOnce,
        &[19],
        "entries of an overrun ring that are pushed while a gap is looked for are taken for a part of it",
        loom("a_gap_has_no_pushed_entry_in_it"),
        "an entry that was pushed is taken for one that never was",
    ),
    entry(
        Mutant::OverflowUnseen,
        &[19],
        "nobody looks whether a drained ring was full",
        explorer("explorer::rings_that_overflow"),
        LOST,
    ),
    entry(
        Mutant::EntryUnchecked,
        &[],
        "an entry's offset is not held against its slot",
        track("collector", "entries_that_name_no_page_are_events"),
        "right: 70",
    ),
    entry(
        Mutant::LookBeforeMark,
        &[],
        "a bit is set only if it is seen to be clear",
        loom("a_mark_is_never_lost"),
        "a change of the page was missed",
    ),
    entry(
        Mutant::TakeInTwoSteps,
        &[],
        "a bitmap's word is read, then cleared",
        loom("a_mark_is_never_lost"),
        "a change of the page was missed",
    ),
    entry(
        Mutant::ShorterOfTwo,
        &[23],
        "of two sets over different slots the shorter decides",
        dirty("pages", "pages_of_other_slots_do_not_mix"),
        "did not panic as expected",
    ),
    entry(
        Mutant::LastWordCut,
        &[23],
        "the last word of a slot's bitmap is cut off",
        track("oracle", "bitmaps"),
        "written and not reported",
    ),
    entry(
        Mutant::FullRingDropsEntry,
        &[19],
        "the kernel's side drops what finds the ring full",
        explorer("explorer::rings_that_overflow"),
        LOST,
    ),
    entry(
        Mutant::FullRingDiscarded,
        &[19],
        "what a full ring gives is thrown away to make room",
        explorer("explorer::rings_that_fill"),
        LOST,
    ),
    entry(
        Mutant::ResetWithoutFlush,
        &[13],
        "entries are reset and translations stay as they are",
        explorer("explorer::rings_that_fill"),
        LOST,
    ),
    entry(
        Mutant::RingWithoutBitmap,
        &[15],
        "arm64's rings without the backup bitmap",
        track("negotiate", "the_backup_bitmap_follows_the_ring_wherever_it_is_offered"),
        "right: RingWithBitmap",
    ),
    entry(
        Mutant::InitiallySet,
        &[],
        "manual protect with `INITIALLY_SET`",
        track("negotiate", "bitmaps_have_manual_protect_and_never_initially_set"),
        "right: [(168, 1)]",
    ),
    entry(
        Mutant::FirstEpochNoBase,
        &[5],
        "the first epoch is what is written from now on, not every page",
        track("cut", "the_first_epoch_is_every_page"),
        "right: 170",
    ),
    entry(
        Mutant::BaseKeepsOldLog,
        &[4],
        "a new base leaves the log of the old one as it is",
        track("cut", "arming_again_protects_every_page_anew_and_is_a_base"),
        "right: [(SlotId(0), 0)",
    ),
    entry(
        Mutant::SignalsNotBlocked,
        &[1],
        "signals reach the thread that resets",
        track("collector", "the_collector_blocks_every_signal_that_can_be_blocked"),
        "[0]",
    ),
    entry(
        Mutant::ShortResetIgnored,
        &[1],
        "a reset that took fewer entries than were harvested counts as done",
        explorer("explorer::resets_cut_short"),
        LOST,
    ),
    entry(
        Mutant::ShortResetForgotten,
        &[1],
        "what a short reset left writable is forgotten when the next reset is refused",
        track("collector", "what_a_short_reset_left_writable_is_suspect_although_the_next_reset_fails"),
        "right: 70",
    ),
    entry(
        Mutant::SuspectsStayWritable,
        &[1],
        "pages that a short reset left writable are reported and not protected again",
        explorer("explorer::resets_cut_short"),
        LOST,
    ),
    entry(
        Mutant::LogDroppedWithItsBits,
        &[11],
        "a slot's log is switched off and on, and what it held is not reported",
        explorer("explorer::resets_cut_short"),
        LOST,
    ),
    entry(
        Mutant::OverflowIgnored,
        &[19],
        "a ring that overflowed is read on as if nothing were missing",
        explorer("explorer::rings_that_overflow"),
        LOST,
    ),
    entry(
        Mutant::LastEntryDropped,
        &[],
        "the newest entry of each drain is dropped, its store being still to come",
        explorer("explorer::rings"),
        LOST,
    ),
    entry(
        Mutant::ReadBeforeReset,
        &[13],
        "a round's pages are read before they are protected again",
        explorer("explorer::rings"),
        LOST,
    ),
    entry(
        Mutant::ResetAfterResume,
        &[14],
        "the guest resumes, then the last entries are reset",
        explorer("explorer::rings"),
        "harvested and not reset",
    ),
    entry(
        Mutant::FinalHarvestSkipped,
        &[16],
        "the rings are not harvested at the seal",
        explorer("explorer::rings"),
        "never harvested",
    ),
    entry(
        Mutant::LateEntriesIgnored,
        &[],
        "entries pushed after the seal are nobody's business",
        track("collector", "an_entry_after_the_seal_fails_the_cut"),
        "on an `Ok` value: Epoch",
    ),
    entry(
        Mutant::BitmapBeforeTables,
        &[15],
        "the bitmaps are collected before the devices have saved their tables",
        explorer("explorer::rings_with_a_backup_bitmap"),
        "written after the last collection",
    ),
    entry(
        Mutant::BackupBitmapSkipped,
        &[16],
        "the backup bitmap is not collected at the seal",
        explorer("explorer::rings_with_a_backup_bitmap"),
        LOST,
    ),
    entry(
        Mutant::FailedLogTakenForClean,
        &[16],
        "a bitmap that could not be read is taken for an empty one",
        track("cut", "a_failed_dirty_log_makes_the_slot_dirty_and_a_good_one_is_cleared_exactly"),
        "right: 70",
    ),
    entry(
        Mutant::ClearMoreThanRead,
        &[12],
        "whole words are cleared and re-protected, also the bits that were not read",
        explorer("explorer::bitmaps"),
        LOST,
    ),
    entry(
        Mutant::MonitorMarksSkipped,
        &[5, 18],
        "what the monitor has marked is not harvested",
        explorer("explorer::rings"),
        "written after the cut was sealed",
    ),
    entry(
        Mutant::OtherSourcesSkipped,
        &[18],
        "the log of a further writer (a vhost back end) is not merged",
        track("cut", "what_a_failing_source_gave_up_is_kept"),
        "on an `Ok` value: DirtyPages",
    ),
    entry(
        Mutant::MarkBeforeWrite,
        &[20],
        "a write of the monitor is marked when it begins",
        explorer("explorer::rings"),
        LOST,
    ),
    entry(
        Mutant::FirstPageMarkedOnly,
        &[20],
        "of a write over several pages the first is marked",
        track("monitor", "marks_cover_exactly_the_pages_of_the_bytes"),
        "right: `true`",
    ),
    entry(
        Mutant::PagesOf4096,
        &[22],
        "a page is taken to have 4096 bytes",
        track("monitor", "pages_are_as_large_as_the_hosts"),
        "pages of 64 KiB",
    ),
    entry(
        Mutant::SealUnderWriters,
        &[20],
        "the cut is sealed while a write of the monitor is under way",
        track("cut", "an_unfinished_write_keeps_the_cut_from_being_sealed"),
        "on an `Ok` value: Cut",
    ),
    entry(
        Mutant::FailedHarvestForgotten,
        &[24],
        "what a harvest took before it failed is dropped",
        track("cut", "what_a_failing_source_gave_up_is_kept"),
        "right: [(SlotId(0), 42)]",
    ),
    entry(
        Mutant::RollbackForgotten,
        &[2],
        "an epoch that ends without commit takes its pages along",
        explorer("explorer::rings"),
        LOST,
    ),
    entry(
        Mutant::RollbackWithoutRounds,
        &[24],
        "an epoch that fails gives back only what no round has handed out",
        explorer("explorer::rings"),
        LOST,
    ),
    entry(
        Mutant::AuditBlind,
        &[],
        "the audit excuses every change",
        track("audit", "escapes_are_exactly_the_changed_and_unreported"),
        "left: `[]`",
    ),
    entry(
        Mutant::CommitBeforeDurable,
        &[21],
        "the epoch is committed before its image is durable",
        machine("after_a_failed_checkpoint_the_next_contains_its_pages"),
        "carried: 0",
    ),
    entry(
        Mutant::OlderCopyWins,
        &[6],
        "of a page that is copied twice the older copy is written last",
        machine("a_page_that_two_rounds_copy_is_the_newer_one"),
        "its digest is",
    ),
    entry(
        Mutant::ParentNotAdvanced,
        &[8],
        "the next increment goes on from the image before the newest",
        machine("a_chain_with_rings_restores_to_any_image"),
        "checkpoint 2",
    ),
    entry(
        Mutant::NewestTakenForParent,
        &[8],
        "a restored machine goes on from the newest image of its name",
        machine("a_chain_with_rings_restores_to_any_image"),
        "left: Some(",
    ),
    entry(
        Mutant::TrackedAfterDevices,
        &[15],
        "after a restore tracking begins when devices have their state back already",
        machine("a_chain_with_rings_restores_to_any_image"),
        "no source reported",
    ),
    entry(
        Mutant::UnmappedTakenForHole,
        &[7],
        "a page that is not mapped in the monitor is taken for a hole",
        lazy("ram::tests::a_page_that_is_not_mapped_here_is_no_hole"),
        "was taken for a hole",
    ),
    entry(
        Mutant::AbsentPagesTakenForZero,
        &[10],
        "pages that a lazy restore has not brought yet are taken for zero",
        lazy("lazy::tests::machines::a_base_waits_for_all_of_memory"),
        "a base of memory that is still to come",
    ),
    entry(
        Mutant::ZeroPageSkipped,
        &[17],
        "a zero page is not recorded, and the parent's content shows through",
        image("oracle::a_chain_is_what_a_dump_would_be"),
        "failed: page",
    ),
    entry(
        Mutant::OffsetNotAdvanced,
        &[3],
        "pages that are left out do not advance the offset of the next",
        image("oracle::a_chain_is_what_a_dump_would_be"),
        "Test failed",
    ),
    entry(
        Mutant::OlderLayerWins,
        &[6],
        "of a page that several layers hold the oldest counts",
        image("oracle::a_chain_is_what_a_dump_would_be"),
        "failed: page",
    ),
    entry(
        Mutant::GatheredOverPut,
        &[],
        "a page of the parent that is stored again replaces one that was put",
        image("gathering::what_was_put_is_newer_than_what_was_gathered"),
        "left: Some(",
    ),
    entry(
        Mutant::SyncErrorIgnored,
        &[21],
        "an error of a sync is dropped, and the image counts as durable",
        image("failing_disk::every_operation_that_fails_fails_the_image"),
        "nobody noticed",
    ),
    entry(
        Mutant::VisibleBeforeDurable,
        &[21],
        "an image becomes visible before its data is durable",
        image("power_cut::a_visible_image_is_a_durable_one"),
        "visible image that is not whole",
    ),
    entry(
        Mutant::FailedWriterTakesParent,
        &[9],
        "a writer that fails takes the image along that it was to go on from",
        image("failing_disk::every_operation_that_fails_fails_the_image"),
        "failed: operation 0",
    ),
    entry(
        Mutant::AcknowledgedForGood,
        &[],
        "a page that a destination has acknowledged stays acknowledged when it is written again",
        track("cut", "a_consumer_goes_on_with_what_it_has_acknowledged"),
        "assertion",
    ),
    entry(
        Mutant::FrontierForgotten,
        &[],
        "a page that is written after a round has read it is taken for one that is still to be read",
        beside("what_is_written_after_it_was_read_is_sent_again"),
        NOT_AS_WRITTEN,
    ),
    entry(
        Mutant::HolesAhead,
        &[],
        "a hole that is filled while a round is under way is taken for a page that is still to be read",
        beside("holes_that_are_filled_while_they_are_passed_over_are_sent"),
        NOT_AS_WRITTEN,
    ),
    entry(
        Mutant::OwedForgotten,
        &[],
        "the guest is stopped, and what was harvested beside the last round is not sent",
        beside("what_was_harvested_beside_the_last_round_is_sent_when_the_guest_stands_still"),
        NOT_AS_WRITTEN,
    ),
];
