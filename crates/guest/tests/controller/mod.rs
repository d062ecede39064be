//! A naive interrupt controller: commands take effect at once, interrupts are pending until they are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use ringmark_guest::{Board, Config, Control, FIRST_LPI, Interrupts, Load, Memory, Pattern, Report, inspect};

pub(crate) const PAGE: u64 = 4096;
const FRAMES: u64 = 0x1000_0000;
const FRAME: u64 = 0x2_0000;
const TRANSLATORS: u64 = FRAMES + FRAME;
const REDISTRIBUTORS: u64 = FRAMES + 0x100_0000;

/// An event: ITS, `DeviceID`, `EventID`.
pub(crate) type Event = (u64, u64, u64);
/// Where an event goes: INTID, collection.
pub(crate) type Mapping = (u64, u64);

pub(crate) fn layout(writers: u64, [count, devices, events]: [u64; 3], seed: u64) -> (Config, Interrupts) {
    let wanted = Config {
        mailbox: 0x10_0000,
        page_size: PAGE,
        hot: 0,
        pages: 4,
        ledger: 0,
        writers,
        pattern: Pattern::Uniform,
        pace: 0,
        seed,
    };
    let interrupts = Interrupts {
        area: 0x20_0000,
        distributor: FRAMES,
        redistributors: REDISTRIBUTORS,
        translators: TRANSLATORS,
        count,
        devices,
        events,
    };
    let start = interrupts.area + interrupts.bytes(&wanted);
    (wanted.place(start, start + (1 << 20)).expect("room"), interrupts)
}

#[derive(Clone, Debug, Default)]
struct Translator {
    queue: u64,
    done: u64,
    stopped: bool,
    /// Translation tables of devices, and processors of collections.
    devices: BTreeMap<u64, u64>,
    collections: BTreeMap<u64, u64>,
    mappings: BTreeMap<(u64, u64), Mapping>,
}

#[derive(Clone, Debug)]
pub(crate) struct Controller {
    config: Config,
    interrupts: Interrupts,
    pub(crate) words: BTreeMap<u64, u64>,
    translators: Vec<Translator>,
    /// Pending interrupts: vCPU, INTID.
    pub(crate) pending: BTreeSet<(u64, u64)>,
    /// For how many further moments other vCPUs stand still.
    pub(crate) standing: u64,
}

impl Controller {
    pub(crate) fn new(config: Config, interrupts: Interrupts) -> Self {
        let translators = (0..interrupts.count).map(|_| Translator::default()).collect();
        let (words, pending) = (BTreeMap::new(), BTreeSet::new());
        let mut controller = Self { config, interrupts, words, translators, pending, standing: 0 };
        let Ok(()) = config.publish(&mut controller, Control::RUN);
        let Ok(()) = interrupts.publish(&mut controller, &config);
        controller
    }

    pub(crate) fn mapped(&self) -> usize {
        self.mappings().len()
    }

    pub(crate) fn mappings(&self) -> BTreeMap<Event, Mapping> {
        let of = |(its, translator): (u64, &Translator)| {
            let mappings = translator.mappings.clone();
            mappings.into_iter().map(move |((device, event), mapping)| ((its, device, event), mapping))
        };
        (0..).zip(&self.translators).flat_map(of).collect()
    }

    pub(crate) fn set_mapping(&mut self, (its, device, event): Event, mapping: Option<Mapping>) {
        let mappings = &mut self.translator(its).mappings;
        match mapping {
            Some(mapping) => mappings.insert((device, event), mapping),
            None => mappings.remove(&(device, event)),
        };
    }

    /// Address of an event's entry in its device's translation table.
    pub(crate) fn entry(&mut self, (its, device, event): Event) -> u64 {
        self.translator(its).devices[&device] + event * 8
    }

    pub(crate) fn stop_translator(&mut self, its: u64) {
        self.translator(its).stopped = true;
    }

    /// Every vCPU takes all that is pending, as the handler of the bare-metal program does.
    pub(crate) fn take_all(&mut self) {
        self.take(|_| true);
    }

    fn take(&mut self, who: impl Fn(u64) -> bool) {
        let (taken, pending) =
            std::mem::take(&mut self.pending).into_iter().partition(|(vcpu, _)| who(*vcpu));
        self.pending = pending;
        let taken: BTreeSet<_> = taken;
        for (vcpu, intid) in taken {
            let (strays, lpis) = self.interrupts.handler(&self.config, vcpu);
            let index =
                intid.checked_sub(FIRST_LPI).filter(|index| *index < lpis).map_or(0, |index| index + 1);
            *self.words.entry(strays + index * 8).or_default() += 1;
        }
    }

    pub(crate) fn inspect(&mut self) -> Report {
        let config = self.config;
        let Ok(report) = inspect(self, &config);
        report
    }

    fn translator(&mut self, its: u64) -> &mut Translator {
        &mut self.translators[usize::try_from(its).expect("small")]
    }

    fn execute(&mut self, its: u64, command: [u64; 4]) {
        let [first, second, third, _] = command;
        let (device, event, collection) = (first >> 32, second & 0xffff_ffff, third & 0xffff);
        let valid = third >> 63 == 1;
        let translator = self.translator(its);
        let source = (device, event);
        match first & 0xff {
            0x09 => {
                assert!(valid, "collections are never unmapped");
                translator.collections.insert(collection, third >> 16 & 0xffff_ffff);
            }
            0x08 => {
                assert!(valid && second < 32, "{command:x?}");
                translator.devices.insert(device, third & 0xf_ffff_ffff_ff00);
            }
            0x0a => {
                assert!(translator.devices.contains_key(&device) && event < 32);
                assert!(translator.collections.contains_key(&collection));
                let before = translator.mappings.insert(source, (second >> 32, collection));
                assert_eq!(before, None, "an event is discarded before it is mapped again");
            }
            0x01 => {
                assert!(translator.collections.contains_key(&collection));
                if let Some(mapping) = translator.mappings.get_mut(&source) {
                    mapping.1 = collection;
                }
            }
            0x0f => drop(translator.mappings.remove(&source)),
            0x03 => {
                if let Some((intid, collection)) = translator.mappings.get(&source).copied() {
                    let vcpu = translator.collections[&collection];
                    self.pending.insert((vcpu, intid));
                }
            }
            0x05 | 0x0c | 0x0d => {}
            other => panic!("no command of an ITS: {other:#x}"),
        }
    }

    /// The ITS at `address`, and the register's offset in its frame.
    fn its(&self, address: u64) -> Option<(u64, u64)> {
        let offset = address.checked_sub(TRANSLATORS)?;
        (offset / FRAME < self.interrupts.count).then_some((offset / FRAME, offset % FRAME))
    }
}

impl Load for Controller {
    type Error = Infallible;

    fn load(&mut self, gpa: u64) -> Result<u64, Infallible> {
        assert!(gpa.is_multiple_of(8) && gpa < FRAMES, "{gpa:#x}");
        Ok(self.words.get(&gpa).copied().unwrap_or(0))
    }
}

impl Memory for Controller {
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), Infallible> {
        assert!(gpa.is_multiple_of(8) && gpa < FRAMES, "{gpa:#x}");
        self.words.insert(gpa, value);
        Ok(())
    }
}

impl Board for Controller {
    fn read(&mut self, address: u64) -> u64 {
        if let Some((its, offset)) = self.its(address) {
            return match offset {
                0x90 => self.translator(its).done,
                0x100 => 1 << 56,
                0x108 => 4 << 56,
                _ => 0,
            };
        }
        assert_eq!(address % FRAME, 0x8, "of a redistributor, its type alone is read");
        ((address - REDISTRIBUTORS) / FRAME) << 8
    }

    fn write(&mut self, address: u64, value: u64) {
        match self.its(address) {
            Some((its, 0x80)) => self.translator(its).queue = value & 0xf_ffff_ffff_f000,
            Some((its, 0x88)) => {
                while !self.translator(its).stopped && self.translator(its).done != value {
                    let Translator { queue, done, .. } = *self.translator(its);
                    let command = [0, 8, 16, 24].map(|word| self.words[&(queue + done + word)]);
                    self.translator(its).done = (done + 32) % 0x1_0000;
                    self.execute(its, command);
                }
            }
            _ => {}
        }
    }

    fn write_half(&mut self, _: u64, _: u32) {}

    fn pause(&mut self) -> u64 {
        let standing = self.standing > 0;
        self.standing = self.standing.saturating_sub(1);
        self.take(|vcpu| vcpu == 0 || !standing);
        100_000
    }
}
