//! When in the first round the pages are read that the guest writes.

use ringmark_dirty::DirtyPages;

/// The share of a round of `all` pages, in their order, that follows when one of `written` is read, on average; 1 if nothing is
/// written or to be sent. Pages that are in no such round, for they are holes, are passed as if they were.
#[must_use]
pub fn rest(all: &DirtyPages, written: &DirtyPages) -> f64 {
    let total = all.len();
    let mut runs = all.runs().peekable();
    // Pages of runs that are passed.
    let (mut passed, mut before) = (0, 0.0);
    for (slot, page) in written.iter() {
        while let Some((_, run)) = runs.next_if(|(of, run)| (*of, run.end) <= (slot, page)) {
            passed += run.end - run.start;
        }
        let inside = runs.peek().filter(|(of, run)| *of == slot && run.start <= page);
        before += (passed + inside.map_or(0, |(_, run)| page - run.start)) as f64;
    }
    match (total, written.len()) {
        (0, _) | (_, 0) => 1.0,
        (total, written) => (1.0 - before / written as f64 / total as f64).clamp(0.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use ringmark_dirty::{Gfn, Memslot, SlotId, SlotTable};

    use super::*;

    fn share(all: &[(u16, Range<u64>)], written: &[(u16, Range<u64>)]) -> f64 {
        let slot = |n: u16| Memslot { id: SlotId::new(0, n), base: Gfn(u64::from(n) * 1000), npages: 100 };
        let table = SlotTable::new([slot(0), slot(1)]).unwrap();
        let [all, written] = [all, written].map(|of| {
            let mut pages = DirtyPages::new(&table);
            for (slot, range) in of {
                pages.slot_mut(SlotId::new(0, *slot)).unwrap().insert_range(range.clone());
            }
            pages
        });
        rest(&all, &written)
    }

    #[test]
    fn it_is_the_share_behind_the_average_page() {
        let close = |share: f64, expected: f64| assert!((share - expected).abs() < 0.006, "{share}");
        close(share(&[(0, 0..100)], &[(0, 0..100)]), 0.5);
        close(share(&[(0, 0..100), (1, 0..100)], &[(0, 0..100)]), 0.75);
        close(share(&[(0, 0..100), (1, 0..100)], &[(1, 50..100)]), 0.125);
        // Holes take no time: two pages of three are passed, and all are.
        close(share(&[(0, 10..20), (0, 90..95)], &[(0, 50..60)]), 1.0 / 3.0);
        close(share(&[(0, 10..20)], &[(1, 50..60)]), 0.0);
        close(share(&[], &[(0, 0..1)]), 1.0);
        close(share(&[(0, 0..1)], &[]), 1.0);
    }
}
