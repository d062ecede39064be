//! A guest, or a monitor, that writes anything anywhere: nothing panics, and no page changes without being logged.

mod gic_support;

use std::collections::BTreeSet;

use gic_support::{DISTRIBUTOR, PAGE, PAGES, RAM, REDISTRIBUTORS, Rig, Tracking, commands::*, pages, places};
use proptest::prelude::*;
use ringmark_abi::Errno;
use ringmark_dirty::FLAG_DIRTY;
use ringmark_engine::gic::{ItsRules, Msi, gicr, gits, group};

#[derive(Clone, Debug)]
enum Step {
    /// The guest's driver writes tables, or anything.
    Memory(u64, u64),
    /// Commands, executed by user space or by the guest.
    Commands(Vec<[u64; 4]>, bool),
    ItsRegister(u64, u64),
    Redistributor(u64, u64),
    Control(u64),
    SavePending,
    GuestStore(u64, Vec<u8>),
    GuestLoad(u64, usize),
    Message(u64, u32, u32),
    Acknowledge,
}

/// Numbers that are often near something.
fn values() -> impl Strategy<Value = u64> {
    let address = prop_oneof![
        Just(RAM),
        Just(places(0).devices),
        Just(places(0).collections),
        Just(places(0).itts),
        Just(RAM + PAGES * PAGE - PAGE),
        Just(0xf_ffff_ffff_0000),
        (0u64..PAGES).prop_map(|p| RAM + p * PAGE),
    ];
    prop_oneof![
        any::<u64>(),
        0u64..300,
        0u64..0x1_0000,
        (address, 0u64..4, any::<bool>())
            .prop_map(|(a, top, all)| a | top << 62 | if all { 0xff } else { 0 }),
        (8000u64..70_000, 0u64..70_000).prop_map(|(lpi, id)| lpi << 16 | id),
    ]
}

fn random_commands() -> impl Strategy<Value = Vec<[u64; 4]>> {
    let id = || prop_oneof![4 => 0u32..6, 1 => any::<u32>()];
    let known = (0u64..17, id(), 0u32..5, 8190u32..8205, 0u64..4, any::<bool>(), 0u64..3).prop_map(
        |(number, device, event, lpi, collection, valid, vcpu)| {
            let table = if number == 8 { places(0).itts } else { vcpu << 16 | collection };
            [
                number | u64::from(device) << 32,
                u64::from(event) | u64::from(lpi) << 32,
                u64::from(valid) << 63 | table,
                vcpu << 16,
            ]
        },
    );
    prop::collection::vec(prop_oneof![6 => known, 1 => prop::array::uniform4(values())], 1..40)
}

fn steps() -> impl Strategy<Value = Step> {
    let its_offset = prop_oneof![
        prop::sample::select(vec![
            gits::CTLR,
            gits::IIDR,
            gits::CBASER,
            gits::CWRITER,
            gits::CREADR,
            gits::BASER,
            gits::BASER + 8,
        ]),
        0u64..0x2_0000,
        any::<u64>(),
    ];
    let gicr_offset = prop_oneof![
        prop::sample::select(vec![
            gicr::CTLR,
            gicr::PROPBASER,
            gicr::PENDBASER,
            gicr::PENDBASER + 4,
            gicr::INVLPIR
        ]),
        0u64..0x2_0000,
    ];
    let gpa = prop_oneof![
        its_offset.clone().prop_map(|o| places(0).frame.wrapping_add(o)),
        (0u64..3, gicr_offset.clone()).prop_map(|(v, o)| REDISTRIBUTORS + v * 0x2_0000 + o),
        (0u64..0x1_0000).prop_map(|o| DISTRIBUTOR + o),
    ];
    let memory = prop_oneof![
        (0u64..0x2000).prop_map(|i| places(0).devices + i * 8),
        (0u64..0x40).prop_map(|i| places(0).collections + i * 8),
        (0u64..0x400).prop_map(|i| places(0).itts + i * 8),
        (0u64..PAGES * PAGE / 8).prop_map(|i| RAM + i * 8),
    ];
    prop_oneof![
        2 => (memory, values()).prop_map(|(at, value)| Step::Memory(at, value)),
        4 => (random_commands(), any::<bool>()).prop_map(|(c, guest)| Step::Commands(c, guest)),
        3 => (its_offset, values()).prop_map(|(o, v)| Step::ItsRegister(o, v)),
        2 => (gicr_offset, values()).prop_map(|(o, v)| Step::Redistributor(o, v)),
        3 => (0u64..8).prop_map(Step::Control),
        1 => Just(Step::SavePending),
        2 => (gpa.clone(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(a, d)| Step::GuestStore(a, d)),
        1 => (gpa.clone(), 1usize..9).prop_map(|(a, len)| Step::GuestLoad(a, len)),
        1 => (gpa, 0u32..8, 0u32..8).prop_map(|(a, d, e)| Step::Message(a, d, e)),
        1 => Just(Step::Acknowledge),
    ]
}

fn take(rig: &mut Rig, step: &Step, shadow: &mut [u8]) {
    let poke = |rig: &Rig, shadow: &mut [u8], gpa: u64, word: u64| {
        rig.ram.poke(gpa, &word.to_le_bytes());
        let at = usize::try_from(gpa - RAM).expect("in memory");
        shadow[at..at + 8].copy_from_slice(&word.to_le_bytes());
    };
    match step {
        Step::Memory(gpa, word) => poke(rig, shadow, *gpa, *word),
        Step::Commands(commands, guest) => {
            // Where the queue stands now, wherever the registers have wandered to.
            let end = rig.its_read(0, gits::CWRITER).expect("GITS_CWRITER");
            let base = rig.its_read(0, gits::CBASER).expect("GITS_CBASER") & 0xf_ffff_ffff_0000;
            let queue =
                if (RAM..RAM + PAGES * PAGE - 0x10_0000).contains(&base) { base } else { places(0).queue };
            let room = 0x1_0000 - end % 0x1_0000;
            for (word, at) in commands.iter().flatten().zip((0..room).step_by(8)) {
                poke(rig, shadow, queue + end % 0x1_0000 + at, *word);
            }
            let end = (end + commands.len() as u64 * 32) & 0xf_ffe0;
            if *guest {
                let _ = rig.vcpus[0].store(places(0).frame + gits::CWRITER, &end.to_le_bytes());
            } else {
                let _ = rig.its_write(0, gits::CWRITER, end);
            }
        }
        Step::ItsRegister(offset, value) => {
            let _ = rig.its_write(0, *offset, *value);
            let _ = rig.its_read(0, *offset);
        }
        Step::Redistributor(offset, value) => {
            let _ = rig.vgic.set_attr(group::REDIST_REGS, value << 40 | offset, *value);
            let mut read = 0;
            let _ = rig.vgic.get_attr(group::REDIST_REGS, *offset, &mut read);
        }
        Step::Control(action) => drop(rig.control(0, *action)),
        Step::SavePending => drop(rig.save_pending()),
        Step::GuestStore(gpa, data) => drop(rig.vcpus[1].store(*gpa, data)),
        Step::GuestLoad(gpa, len) => drop(rig.vcpus[1].load(*gpa, &mut vec![0; *len])),
        Step::Message(address, devid, data) => {
            let _ = rig.vm.signal_msi(&Msi { address: *address, data: *data, devid: Some(*devid) });
        }
        Step::Acknowledge => {
            let _ = rig.vm.acknowledge_lpi(0);
        }
    }
}

/// Pages that are not what the test made them, and that nobody logged.
fn escapes(rig: &Rig, shadow: &[u8], logged: &BTreeSet<u64>) -> Vec<u64> {
    const BYTES: usize = 4096;
    let now = rig.ram.contents();
    let changed = now.chunks(BYTES).zip(shadow.chunks(BYTES)).zip(0..).filter(|((a, b), _)| a != b);
    changed.map(|(_, page)| page).filter(|page| !logged.contains(page)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn nothing_panics_and_every_change_is_logged(
        steps in prop::collection::vec(steps(), 1..60), programmed: bool, newest: bool,
    ) {
        let mut rig = if programmed {
            Rig::programmed(Tracking::RingWithBitmap, 2, 1)
        } else {
            let rig = Rig::new(Tracking::RingWithBitmap, 2, 1);
            rig.place();
            rig
        };
        rig.vm.set_its_rules(if newest { ItsRules::linux_7_2() } else { ItsRules::linux_6_12() });
        let mut shadow = rig.ram.contents();
        for step in &steps {
            take(&mut rig, step, &mut shadow);
        }
        let logged: BTreeSet<u64> = rig.collect().into_iter().chain(rig.ring(0)).chain(rig.ring(1)).collect();
        prop_assert_eq!(escapes(&rig, &shadow, &logged), Vec::<u64>::new());
        prop_assert_eq!(rig.vm.stats().hard_full_events, 0);
    }
}

#[test]
fn the_check_finds_what_a_ring_alone_loses() {
    let mut rig = Rig::programmed(Tracking::Ring, 2, 1);
    rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 1), mapti(1, 0, 8192, 0)]);
    let shadow = rig.ram.contents();
    rig.save_tables(0).unwrap();
    let tables = pages([places(0).devices, places(0).collections, places(0).itts]);
    let escaped: BTreeSet<u64> = escapes(&rig, &shadow, &BTreeSet::new()).into_iter().collect();
    assert_eq!(escaped, tables);
}

#[test]
fn the_events_of_an_its_are_bounded() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    let all: Vec<Command> = (0..1 << 16).map(|event| mapti(1, event, 8192, 0)).collect();
    rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 16), mapd(2, places(0).itts, 16)]);
    rig.run(0, &all);
    assert_eq!(rig.signal(0, 1, 0xffff), Ok(1));
    rig.run(0, &[mapti(2, 0, 8193, 0)]);
    assert_eq!(rig.signal(0, 2, 0), Ok(0), "no room");
    rig.run(0, &[discard(1, 5), mapti(2, 0, 8193, 0)]);
    assert_eq!(rig.signal(0, 2, 0), Ok(1));
}

#[test]
fn a_guest_and_a_monitor_at_once_lose_nothing() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 4), mapd(2, places(0).itts + 0x1000, 4)]);
    let rounds: Vec<u64> = (0..300)
        .map(|round| {
            let event = round % 16;
            rig.queue(
                0,
                &[mapti(1, event, 8192 + event, 0), int(1, event), discard(1, (event + 8) % 16), unmapd(3)],
            )
        })
        .collect();
    let shadow = rig.ram.contents();
    let mut vcpu = rig.vcpus.remove(0);
    let ring = vcpu.ring_memory().expect("a ring");
    let cwriter = places(0).frame + gits::CWRITER;
    let saves = std::thread::scope(|scope| {
        let guest = scope.spawn(move || {
            for end in rounds {
                vcpu.store(cwriter, &end.to_le_bytes()).expect("a store to a device");
            }
        });
        let (mut saved, mut busy) = (0, 0);
        while !guest.is_finished() || saved < 3 {
            match rig.save_tables(0).and_then(|()| rig.save_pending()) {
                Ok(()) => saved += 1,
                Err(errno) => {
                    assert_eq!(errno, Errno::EBUSY);
                    busy += 1;
                }
            }
        }
        (saved, busy)
    });
    assert!(saves.0 >= 3, "{saves:?}");
    let from_ring = ring.entries().iter().filter(|e| e.flags() == FLAG_DIRTY).map(|e| e.payload().1);
    let logged: BTreeSet<u64> = rig.collect().into_iter().chain(from_ring).collect();
    assert_eq!(escapes(&rig, &shadow, &logged), Vec::<u64>::new());
}
