//! What is known of each mutant.

use ringmark_dirty::mutant::Mutant;

/// A test program of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Program {
    /// The unit tests of a package.
    Unit(&'static str),
    /// An integration test of a package.
    Integration(&'static str, &'static str),
    /// The loom models of `ringmark-dirty`.
    Loom,
}

/// A test that has to fail while a mutant is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Catcher {
    pub(super) program: Program,
    pub(super) test: &'static str,
}

/// One mutant.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) mutant: Mutant,
    /// What it does wrong, in a few words.
    pub(super) mistake: &'static str,
    /// The rows of the catalogue that it belongs to.
    pub(super) rows: &'static [u8],
    pub(super) catcher: Catcher,
    /// What the failure has to say, so that it fails for this reason.
    pub(super) says: &'static str,
}

/// A way in which pages were lost somewhere.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) number: u8,
    pub(super) mechanism: &'static str,
    pub(super) seen: &'static str,
    /// Why there is no mutant, if there is none.
    pub(super) without: Option<&'static str>,
}

const fn row(number: u8, mechanism: &'static str, seen: &'static str) -> Row {
    Row { number, mechanism, seen, without: None }
}

/// How pages really get lost, from the source and the trackers of others.
pub(super) const ROWS: &[Row] = &[
    row(
        1,
        "a reset that a signal interrupts leaves pages unprotected that it has counted",
        "Linux from 6.16 on",
    ),
    row(2, "the log was cleared, then writing the snapshot failed", "Firecracker #4545, #4383"),
    row(
        3,
        "clean pages at the end did not advance the file's cursor, and later slots landed in the wrong place",
        "Firecracker #5696, #5705",
    ),
    row(4, "a full snapshot did not reset the log", "Firecracker #4543"),
    row(
        5,
        "the first difference of a new machine missed what the monitor itself had written",
        "Firecracker #1997",
    ),
    row(6, "merging differences corrupted guests", "Firecracker #2802"),
    row(7, "`mincore` takes swapped pages for absent ones", "Firecracker's documentation, E2B infra #2092"),
    row(8, "the wrong parent was chosen after a rollback", "CubeSandbox"),
    row(9, "the base was destroyed by a failed snapshot, and the next difference had none", "hypeman #146"),
    row(
        10,
        "the snapshot of a lazily restored machine missed the pages that had never been touched",
        "Cloud Hypervisor #8525",
    ),
    row(11, "a slot was removed with bits in flight", "QEMU"),
    row(12, "bits were cleared that had never been read (`CLEAR` works in units of 64 pages)", "QEMU"),
    row(13, "a page was read before it was protected again", "QEMU's second rule"),
    row(14, "harvest, resume, and only then reset: the write in between is in no log", "the order of calls"),
    row(15, "device tables were saved after the last collection", "arm64's ITS"),
    row(16, "the backup bitmap was skipped on one way out", "QEMU, start of post-copy"),
    row(17, "a zero page was not sent again, and old data stayed at the destination", "QEMU"),
    row(18, "DMA and vhost writes were in the device's own log only", "vhost, VFIO"),
    row(19, "a full ring was handled by dropping the entry", "early kernel patches"),
    row(
        20,
        "reads were marked when submitted and not when complete; buffers of several pages were marked in part",
        "Cloud Hypervisor",
    ),
    row(21, "bitmaps were reset before a sync whose error then lost them", "Firecracker"),
    row(22, "a page was taken to have 4096 bytes on a host of larger pages", "Cloud Hypervisor"),
    row(23, "two bitmaps of different length were zipped to the shorter", "Cloud Hypervisor"),
    row(
        24,
        "a failed migration had cleared the bits, and the second one lost the pages",
        "Propolis #232, #387",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::entries::{ENTRIES, of};
    use super::*;

    #[test]
    fn every_mutant_has_one_catcher() {
        for &mutant in Mutant::ALL {
            let count = ENTRIES.iter().filter(|entry| entry.mutant == mutant).count();
            assert_eq!(count, 1, "{}", mutant.name());
            assert!(of(mutant).is_some_and(|entry| !entry.says.is_empty()));
        }
    }

    #[test]
    fn every_row_has_a_mutant_or_a_reason() {
        for row in ROWS {
            let mutants = ENTRIES.iter().filter(|entry| entry.rows.contains(&row.number)).count();
            assert_eq!(mutants == 0, row.without.is_some(), "B{}", row.number);
        }
        let rows = ENTRIES.iter().flat_map(|entry| entry.rows);
        assert!(rows.into_iter().all(|number| ROWS.iter().any(|row| row.number == *number)));
    }
}
