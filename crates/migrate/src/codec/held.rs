//! What the destination holds of pages that are written again and again.

use std::collections::{HashMap, VecDeque};

use ringmark_dirty::SlotId;

/// Copies of pages as they were sent last, of bounded size: what a delta is taken against.
///
/// Pages that were sent once only are not worth the memory; the caller offers those that were sent before. Where there is no
/// more room, one newcomer in sixteen takes the place of the oldest: of a set that is written round and round and
/// does not fit, most of what is held is then still there when its turn comes, and what is not held costs no copy.
#[derive(Debug)]
pub struct Held {
    pages: HashMap<(SlotId, u64), Box<[u8]>>,
    order: VecDeque<(SlotId, u64)>,
    room: usize,
    turned_away: u32,
}

/// One newcomer in so many is held where there is no room.
const ADMITTED: u32 = 16;

impl Held {
    /// Room for `room` pages.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self { pages: HashMap::new(), order: VecDeque::new(), room, turned_away: 0 }
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The page as the destination has it, if it is held.
    #[must_use]
    pub fn get(&self, slot: SlotId, page: u64) -> Option<&[u8]> {
        self.pages.get(&(slot, page)).map(AsRef::as_ref)
    }

    /// Whether all of `count` pages from `first` are held.
    #[must_use]
    pub fn has_all(&self, slot: SlotId, first: u64, count: usize) -> bool {
        (first..).take(count).all(|page| self.pages.contains_key(&(slot, page)))
    }

    /// The destination has `bytes` of this page, or will have them before anything that is sent later.
    pub fn put(&mut self, slot: SlotId, page: u64, bytes: &[u8]) {
        if self.room == 0 {
            return;
        }
        if let Some(old) = self.pages.get_mut(&(slot, page)) {
            old.copy_from_slice(bytes);
            return;
        }
        if self.order.len() < self.room {
            self.order.push_back((slot, page));
            self.pages.insert((slot, page), bytes.into());
            return;
        }
        self.turned_away += 1;
        if self.turned_away < ADMITTED {
            return;
        }
        self.turned_away = 0;
        if let Some(mut copy) = self.order.pop_front().and_then(|oldest| self.pages.remove(&oldest)) {
            copy.copy_from_slice(bytes);
            self.order.push_back((slot, page));
            self.pages.insert((slot, page), copy);
        }
    }

    /// Holds nothing any more, and never again.
    pub fn give_up(&mut self) {
        *self = Self::new(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_fits_and_always_the_newest_copy() {
        let slot = SlotId::new(0, 0);
        let mut held = Held::new(2);
        held.put(slot, 1, &[1; 8]);
        held.put(slot, 2, &[2; 8]);
        held.put(slot, 1, &[9; 8]);
        assert_eq!(held.get(slot, 1), Some([9; 8].as_slice()));
        assert!(held.has_all(slot, 1, 2));
        for _ in 1..ADMITTED {
            held.put(slot, 3, &[3; 8]);
            assert_eq!(held.get(slot, 3), None, "there is no room");
        }
        held.put(slot, 3, &[3; 8]);
        assert_eq!(held.get(slot, 3), Some([3; 8].as_slice()));
        assert_eq!(held.get(slot, 1), None, "the oldest made room");
        assert!(held.has_all(slot, 2, 2) && !held.has_all(slot, 1, 2));
        let mut none = Held::new(0);
        none.put(slot, 1, &[1; 8]);
        assert_eq!(none.get(slot, 1), None);
    }
}
