//! Collections: what events are routed by.

use std::collections::BTreeMap;

/// A collection the ITS knows.
#[derive(Clone, Copy, Debug)]
struct Collection {
    /// When it became known; tables are saved in this order.
    order: u64,
    /// The vCPU it is mapped to; none if so far only events name it.
    target: Option<u32>,
}

/// The collections by their 16-bit id.
#[derive(Debug, Default)]
pub(super) struct Collections {
    by_id: BTreeMap<u16, Collection>,
    next: u64,
}

impl Collections {
    /// Whether the ITS knows collection `id`, mapped or not.
    pub(super) fn contains(&self, id: u16) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The vCPU that collection `id` is mapped to.
    pub(super) fn target(&self, id: u16) -> Option<u32> {
        self.by_id.get(&id)?.target
    }

    /// Maps collection `id`, new or known, to `target`.
    pub(super) fn map(&mut self, id: u16, target: Option<u32>) {
        let order = self.next;
        let collection = self.by_id.entry(id).or_insert_with(|| Collection { order, target });
        collection.target = target;
        self.next += 1;
    }

    /// Forgets collection `id`; false if there was none.
    pub(super) fn remove(&mut self, id: u16) -> bool {
        self.by_id.remove(&id).is_some()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.by_id.clear();
    }

    /// Ids and targets in the order in which the ITS learned of them.
    pub(super) fn in_order(&self) -> Vec<(u16, Option<u32>)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(&id, c)| (c.order, id, c.target)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id, target)| (id, target)).collect()
    }
}
