//! Save, a new VM with the same memory, restore: every interrupt goes where it went, and what was pending still is.

mod gic_support;

use std::collections::{BTreeMap, BTreeSet};

use gic_support::{Rig, Tracking, commands::*, pages, pending_table, places, restore_its, save_registers};
use proptest::prelude::*;
use ringmark_engine::gic::gits;

#[derive(Clone, Debug)]
struct Mapping {
    lpi: u32,
    collection: u16,
    pending: bool,
}

/// What a driver has mapped.
#[derive(Clone, Debug)]
struct Guest {
    vcpus: u32,
    indirect: bool,
    collections: BTreeMap<u16, u32>,
    /// EventID bits and events, by DeviceID.
    devices: BTreeMap<u32, (u32, BTreeMap<u32, Mapping>)>,
}

fn guests() -> impl Strategy<Value = Guest> {
    let events = prop::collection::btree_map(0u32..64, (any::<prop::sample::Index>(), any::<bool>()), 0..20);
    let devices = prop::collection::btree_map(0u32..8192, (1u32..=6, events), 0..12);
    let collections = prop::collection::btree_map(0u16..8000, any::<u32>(), 1..8);
    (1u32..=3, any::<bool>(), collections, devices, 8192u32..60_000).prop_map(
        |(vcpus, indirect, collections, devices, first_lpi)| {
            let collections: BTreeMap<u16, u32> =
                collections.into_iter().map(|(id, vcpu)| (id, vcpu % vcpus)).collect();
            let ids: Vec<u16> = collections.keys().copied().collect();
            let mut lpi = first_lpi;
            let mut next_lpi = || {
                lpi += 1;
                lpi
            };
            let devices = devices
                .into_iter()
                .map(|(id, (bits, events))| {
                    let events = events
                        .into_iter()
                        .filter(|(event, _)| event >> bits == 0)
                        .map(|(event, (collection, pending))| {
                            (
                                event,
                                Mapping {
                                    lpi: next_lpi(),
                                    collection: ids[collection.index(ids.len())],
                                    pending,
                                },
                            )
                        })
                        .collect();
                    (id, (bits, events))
                })
                .collect();
            Guest { vcpus, indirect, collections, devices }
        },
    )
}

impl Guest {
    /// The address of the table of the `nth` device; several share a page.
    fn itt(nth: usize) -> u64 {
        places(0).itts + nth as u64 * 0x200
    }

    fn second_level() -> u64 {
        places(0).itts + 0x10_0000
    }

    fn events(&self) -> impl Iterator<Item = (u32, u32, &Mapping)> {
        self.devices.iter().flat_map(|(&d, (_, events))| events.iter().map(move |(&e, m)| (d, e, m)))
    }

    fn set_up(&self) -> Rig {
        let rig = Rig::new(Tracking::RingWithBitmap, self.vcpus, 1);
        rig.place();
        rig
    }

    fn program(&self) -> Rig {
        let mut rig = self.set_up();
        rig.ram.poke(gic_support::LPI_CONFIG, &[0xa1; 0xe000]);
        rig.program_redistributors();
        rig.program_its(0, u64::from(self.indirect) << 62);
        if self.indirect {
            rig.ram.poke(places(0).devices, &(1 << 63 | Self::second_level()).to_le_bytes());
        }
        rig.its_write(0, gits::CTLR, 1).expect("a step that works");
        let mut commands: Vec<Command> = self.collections.iter().map(|(&c, &vcpu)| mapc(c, vcpu)).collect();
        for ((&id, (bits, events)), nth) in self.devices.iter().zip(0..) {
            commands.push(mapd(id, Self::itt(nth), *bits));
            commands.extend(events.iter().rev().map(|(&event, m)| mapti(id, event, m.lpi, m.collection)));
        }
        commands.extend(self.events().filter(|(.., m)| m.pending).map(|(d, e, _)| int(d, e)));
        rig.run(0, &commands);
        rig
    }

    /// The pages that a save must log, computed from the layouts alone.
    fn saved_pages(&self) -> BTreeSet<u64> {
        let table = if self.indirect { Self::second_level() } else { places(0).devices };
        let mut written: Vec<u64> =
            (0..=self.collections.len() as u64).map(|i| places(0).collections + i * 8).collect();
        for ((&id, (_, events)), nth) in self.devices.iter().zip(0..) {
            written.push(table + u64::from(id) * 8);
            written.extend(events.keys().map(|&event| Self::itt(nth) + u64::from(event) * 8));
        }
        for (.., mapping) in self.events().filter(|(.., m)| m.pending) {
            written.push(pending_table(self.collections[&mapping.collection]) + u64::from(mapping.lpi / 8));
        }
        pages(written)
    }

    fn pending(&self, vcpu: u32) -> Vec<u32> {
        let of_vcpu = self.events().filter(|(.., m)| m.pending && self.collections[&m.collection] == vcpu);
        of_vcpu.map(|(.., m)| m.lpi).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// Save, copy, restore. Without `save_pending`, one step is missing.
fn migrate(guest: &Guest, source: &Rig, save_pending: bool) -> Rig {
    if save_pending {
        source.save_pending().expect("a step that works");
    }
    source.save_tables(0).expect("a step that works");
    let registers = save_registers(source, 0);
    let mut target = guest.set_up();
    target.ram.fill_from(&source.ram.contents());
    target.program_redistributors();
    restore_its(&mut target, 0, &registers).expect("a step that works");
    target
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn interrupts_survive_the_journey(guest in guests()) {
        let source = guest.program();
        prop_assert!(source.collect().is_empty(), "mapping dirties nothing");
        source.save_pending().unwrap();
        source.save_tables(0).unwrap();
        prop_assert_eq!(source.collect(), guest.saved_pages());
        prop_assert_eq!(source.ring(0), Vec::<u64>::new());

        let target = migrate(&guest, &source, true);
        let consumed: Vec<u64> = guest
            .events()
            .filter(|(.., m)| m.pending)
            .map(|(.., m)| pending_table(guest.collections[&m.collection]) + u64::from(m.lpi / 8))
            .collect();
        prop_assert_eq!(target.collect(), pages(consumed), "what a restore dirties");
        for vcpu in 0..guest.vcpus {
            prop_assert_eq!(target.vm.pending_lpis(vcpu), guest.pending(vcpu));
        }

        // Saving again writes byte for byte what was restored.
        let saved = source.ram.contents();
        target.save_pending().unwrap();
        target.save_tables(0).unwrap();
        prop_assert!(target.ram.contents() == saved);

        for vcpu in 0..guest.vcpus {
            let taken: BTreeSet<u32> = std::iter::from_fn(|| target.vm.acknowledge_lpi(vcpu)).collect();
            prop_assert_eq!(taken.into_iter().collect::<Vec<_>>(), guest.pending(vcpu), "pending and deliverable");
        }
        for (device, event, mapping) in guest.events() {
            prop_assert_eq!(target.signal(0, device, event), Ok(1));
            prop_assert_eq!(target.vm.acknowledge_lpi(guest.collections[&mapping.collection]), Some(mapping.lpi));
        }
        for (&device, (bits, events)) in &guest.devices {
            for event in (0..1 << bits).filter(|e| !events.contains_key(e)) {
                prop_assert_eq!(target.signal(0, device, event), Ok(0));
            }
        }
    }
}

#[test]
fn leaving_the_pending_tables_out_loses_interrupts() {
    let one = Mapping { lpi: 8200, collection: 0, pending: true };
    let guest = Guest {
        vcpus: 1,
        indirect: false,
        collections: BTreeMap::from([(0, 0)]),
        devices: BTreeMap::from([(1, (2, BTreeMap::from([(0, one)])))]),
    };
    let source = guest.program();
    assert_eq!(migrate(&guest, &source, false).vm.pending_lpis(0), []);
    assert_eq!(migrate(&guest, &source, true).vm.pending_lpis(0), [8200]);
}
