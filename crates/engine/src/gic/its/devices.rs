//! Devices and their events.

use std::collections::BTreeMap;

/// The most events that all devices of one ITS may have mapped together: every LPI once and then some. KVM stops at the
/// memory of the host.
const MAX_EVENTS: usize = 1 << 16;

/// What an event translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The interrupt number.
    pub(super) lpi: u32,
    /// The collection it is routed by; none after that collection was unmapped.
    pub(super) collection: Option<u16>,
}

/// A mapped device.
#[derive(Debug)]
pub(super) struct Device {
    /// The address of its interrupt translation table.
    pub(super) itt: u64,
    /// Bits of its EventIDs, 1 to 16.
    pub(super) event_bits: u32,
    /// Its mapped events by EventID.
    pub(super) events: BTreeMap<u32, Event>,
}

impl Device {
    /// The address of the table entry of `event`, or `None` if the table has none.
    pub(super) fn entry_address(&self, event: u32) -> Option<u64> {
        (u64::from(event) < 1 << self.event_bits).then(|| self.itt + u64::from(event) * 8)
    }
}

/// The mapped devices by DeviceID.
#[derive(Debug, Default)]
pub(super) struct Devices {
    by_id: BTreeMap<u32, Device>,
    events: usize,
}

impl Devices {
    /// The device `id`.
    pub(super) fn get(&self, id: u32) -> Option<&Device> {
        self.by_id.get(&id)
    }

    /// What event `event` of device `device` translates to.
    pub(super) fn event(&self, device: u32, event: u32) -> Option<Event> {
        self.by_id.get(&device)?.events.get(&event).copied()
    }

    /// Maps a device without events. There must be none with this id.
    pub(super) fn insert(&mut self, id: u32, itt: u64, event_bits: u32) {
        self.by_id.insert(id, Device { itt, event_bits, events: BTreeMap::new() });
    }

    /// Unmaps a device; the LPIs of its events, to be given back.
    #[must_use]
    pub(super) fn remove(&mut self, id: u32) -> Vec<u32> {
        let Some(device) = self.by_id.remove(&id) else { return Vec::new() };
        self.events -= device.events.len();
        device.events.into_values().map(|e| e.lpi).collect()
    }

    /// Unmaps all devices; the LPIs of their events, to be given back.
    #[must_use]
    pub(super) fn take_all(&mut self) -> Vec<u32> {
        let all = std::mem::take(self);
        all.by_id.into_values().flat_map(|d| d.events.into_values()).map(|e| e.lpi).collect()
    }

    /// Whether another event can be mapped.
    pub(super) fn has_room(&self) -> bool {
        self.events < MAX_EVENTS
    }

    /// Maps an event of a mapped device; false, and nothing happens, if there is no such device.
    pub(super) fn insert_event(&mut self, device: u32, id: u32, event: Event) -> bool {
        let Some(device) = self.by_id.get_mut(&device) else { return false };
        if device.events.insert(id, event).is_none() {
            self.events += 1;
        }
        true
    }

    /// Unmaps an event.
    pub(super) fn remove_event(&mut self, device: u32, id: u32) -> Option<Event> {
        let event = self.by_id.get_mut(&device)?.events.remove(&id)?;
        self.events -= 1;
        Some(event)
    }

    /// Routes a mapped event by another collection.
    pub(super) fn move_event(&mut self, device: u32, id: u32, collection: u16) {
        if let Some(event) = self.by_id.get_mut(&device).and_then(|d| d.events.get_mut(&id)) {
            event.collection = Some(collection);
        }
    }

    /// Takes the events of the collections that `gone` names out of them.
    pub(super) fn leave_collections(&mut self, gone: impl Fn(u16) -> bool) {
        for event in self.by_id.values_mut().flat_map(|d| d.events.values_mut()) {
            if event.collection.is_some_and(&gone) {
                event.collection = None;
            }
        }
    }

    /// The LPIs of the events in `collection`.
    pub(super) fn lpis_in(&self, collection: u16) -> impl Iterator<Item = u32> {
        self.by_id
            .values()
            .flat_map(|d| d.events.values())
            .filter(move |e| e.collection == Some(collection))
            .map(|e| e.lpi)
    }

    /// All devices by ascending id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Device)> {
        self.by_id.iter().map(|(&id, d)| (id, d))
    }
}
