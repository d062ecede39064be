//! What the destination holds of pages that are written again and again.

use std::collections::{HashMap, VecDeque};

use ringmark_dirty::SlotId;

/// Copies of pages as they were sent last, of bounded size: what a delta is taken against.
///
/// The first copies stay until room is needed, oldest first. Pages that were sent once only are not worth the memory;
/// the caller offers those that were sent before.
#[derive(Debug)]
pub struct Held {
    pages: HashMap<(SlotId, u64), Box<[u8]>>,
    order: VecDeque<(SlotId, u64)>,
    room: usize,
}

impl Held {
    /// Room for `room` pages.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self { pages: HashMap::new(), order: VecDeque::new(), room }
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
        if self.order.len() == self.room
            && let Some(oldest) = self.order.pop_front()
        {
            self.pages.remove(&oldest);
        }
        self.order.push_back((slot, page));
        self.pages.insert((slot, page), bytes.into());
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
        held.put(slot, 3, &[3; 8]);
        assert_eq!(held.get(slot, 1), None, "the oldest made room");
        assert!(held.has_all(slot, 2, 2) && !held.has_all(slot, 1, 2));
        let mut none = Held::new(0);
        none.put(slot, 1, &[1; 8]);
        assert_eq!(none.get(slot, 1), None);
    }
}
