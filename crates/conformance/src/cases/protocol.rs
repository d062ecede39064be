//! Whole checkpoints: the order of steps that loses nothing, and orders that do.

use std::collections::BTreeSet;

use super::its_rig::{ItsRig, attr, group};
use crate::bench::{Bench, set_bits};
use crate::case::Case;
use crate::cpu::Cpu;
use crate::rig::{Rig, Slot};
use crate::verdict::{Must, Stop, Verdict, ensure, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T88",
        "checkpoints",
        [Ring],
        checkpoints,
        "Documentation/virt/kvm/api.rst, 8.29",
        "Images patched with each window's pages equal guest memory, with failed windows carried over to the next."
    ),
    case!(
        "T89",
        "checkpoint-without-reset",
        [Ring],
        without_reset,
        "kvm_dirty_ring_reset",
        "Harvested pages that are not reset before the guest goes on are lost, and the image shows it."
    ),
    case!(
        "T90",
        "checkpoint-bitmap-too-early",
        [WithBitmap, Gic],
        bitmap_too_early,
        "Documentation/virt/kvm/api.rst, 8.29",
        "A bitmap read before tables are saved misses them, and the image shows it."
    ),
    case!(
        "T91",
        "checkpoint-monitor-writes",
        [Nothing],
        monitor_writes,
        "mark_page_dirty_in_slot",
        "The monitor's own writes are in no log of the kernel; merged from its own log they are not lost."
    ),
];

/// A copy of a slot's memory, kept by the pages that were reported.
struct Image<'a> {
    slot: &'a Slot,
    pages: Vec<Vec<u64>>,
}

impl<'a> Image<'a> {
    fn base(slot: &'a Slot) -> Self {
        let pages = (0..slot.npages).map(|page| slot.ram.page(page, slot.page_bytes)).collect();
        Self { slot, pages }
    }

    fn patch(&mut self, reported: &BTreeSet<u64>) {
        for (page, content) in (0..).zip(&mut self.pages) {
            if reported.contains(&page) {
                *content = self.slot.ram.page(page, self.slot.page_bytes);
            }
        }
    }

    /// Pages whose content differs from the image's.
    fn escapes(&self) -> Vec<u64> {
        let differs = |(page, content): (u64, &Vec<u64>)| {
            (self.slot.ram.page(page, self.slot.page_bytes) != *content).then_some(page)
        };
        (0..).zip(&self.pages).filter_map(differs).collect()
    }
}

/// Numbers that look random and are the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Harvest, reset until everything is back, and the backup bitmap last. No vCPU is in the guest.
fn collect(rig: &Rig, cpu: &mut Cpu, slot: &Slot, bitmap: bool) -> Result<BTreeSet<u64>, Stop> {
    let harvested = cpu.harvest_all();
    let mut back = 0;
    for _ in 0..=harvested.len() {
        if back == harvested.len() {
            break;
        }
        back += rig.reset()? as usize;
    }
    equal("the sum of KVM_RESET_DIRTY_RINGS", back, harvested.len())?;
    let mut pages: BTreeSet<u64> =
        harvested.into_iter().filter(|(raw, _)| *raw == slot.id.raw()).map(|(_, page)| page).collect();
    if bitmap {
        pages.extend(set_bits(&rig.get(slot)?));
    }
    Ok(pages)
}

/// Twenty checkpoints, every fifth of which fails after its pages were collected.
fn windows(
    rig: &Rig,
    cpu: &mut Cpu,
    slot: &Slot,
    bitmap: bool,
    mut others: impl FnMut(&mut Numbers) -> Result<BTreeSet<u64>, Stop>,
) -> Verdict {
    const WINDOWS: u64 = 20;
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    collect(rig, cpu, slot, bitmap)?;
    let mut image = Image::base(slot);
    let mut open = BTreeSet::new();
    for window in 0..WINDOWS {
        let touched = (0..numbers.below(60)).map(|_| numbers.below(slot.npages)).collect::<Vec<_>>();
        cpu.touch(slot, touched)?;
        open.extend(others(&mut numbers)?);
        open.extend(collect(rig, cpu, slot, bitmap)?);
        if window % 5 == 3 {
            continue;
        }
        image.patch(&open);
        open.clear();
        equal(format!("pages that window {window} lost"), image.escapes(), vec![])?;
    }
    Ok(())
}

fn checkpoints(bench: &Bench) -> Verdict {
    let rig = bench.best(1024)?;
    let slot = rig.log_slot(1, 0x1000, 512)?;
    let mut cpu = rig.vcpu(0)?;
    windows(&rig, &mut cpu, &slot, bench.facts().with_bitmap, |numbers| {
        // The monitor's devices: written, then marked in a log of the monitor's own.
        let pages: BTreeSet<u64> = (0..numbers.below(20)).map(|_| numbers.below(slot.npages)).collect();
        pages.iter().for_each(|page| slot.ram.write(page * slot.page_bytes + 8, rig.fresh_value()));
        Ok(pages)
    })?;
    if !bench.facts().gic || !bench.facts().with_bitmap {
        return Ok(());
    }
    let ItsRig { rig, mut cpu, ram, vgic, its, .. } = ItsRig::with_devices(bench, true)?;
    windows(&rig, &mut cpu, &ram, true, |numbers| {
        if numbers.below(2) == 0 {
            let address = super::its_rig::ITS_BASE + super::its_rig::reg::TRANSLATER;
            rig.vm().signal_msi(address, 5, 7)?.must("KVM_SIGNAL_MSI")?;
        }
        vgic.set(group::CTRL, attr::SAVE_PENDING, 0).must("SAVE_PENDING_TABLES")?;
        its.set(group::CTRL, attr::SAVE_TABLES, 0).must("ITS_SAVE_TABLES")?;
        Ok(BTreeSet::new())
    })
}

fn without_reset(bench: &Bench) -> Verdict {
    let rig = bench.best(1024)?;
    let slot = rig.log_slot(1, 0x1000, 64)?;
    let mut cpu = rig.vcpu(0)?;
    let mut image = Image::base(&slot);
    cpu.touch(&slot, 0..32)?;
    let pages = |logged: Vec<(u32, u64)>| logged.into_iter().map(|(_, page)| page).collect();
    image.patch(&pages(cpu.harvest_all()));
    equal("pages lost in the first window", image.escapes(), vec![])?;
    cpu.touch(&slot, 0..32)?;
    image.patch(&pages(cpu.harvest_all()));
    let escapes = image.escapes();
    if escapes.is_empty() && bench.facts().real {
        bench.note("every page was logged again though none was reset, which is legal".into());
        return Ok(());
    }
    ensure("pages lost in the second window", !escapes.is_empty(), "some", escapes)
}

fn bitmap_too_early(bench: &Bench) -> Verdict {
    let ItsRig { rig, mut cpu, ram, its, .. } = ItsRig::with_devices(bench, true)?;
    collect(&rig, &mut cpu, &ram, true)?;
    let mut image = Image::base(&ram);
    image.patch(&collect(&rig, &mut cpu, &ram, true)?);
    its.set(group::CTRL, attr::SAVE_TABLES, 0).must("ITS_SAVE_TABLES")?;
    let escapes = image.escapes();
    ensure("pages lost by reading the bitmap first", !escapes.is_empty(), "some", &escapes)?;
    image.patch(&collect(&rig, &mut cpu, &ram, true)?);
    equal("pages lost by reading it last", image.escapes(), vec![])
}

fn monitor_writes(bench: &Bench) -> Verdict {
    let rig = bench.vm()?;
    let slot = rig.log_slot(1, 0x1000, 64)?;
    let mut cpu = rig.vcpu(0)?;
    for merged in [false, true] {
        rig.get(&slot)?;
        let mut image = Image::base(&slot);
        cpu.touch(&slot, 0..8)?;
        slot.ram.write(40 * slot.page_bytes, rig.fresh_value());
        let mut pages: BTreeSet<u64> = set_bits(&rig.get(&slot)?).into_iter().collect();
        if merged {
            pages.insert(40);
        }
        image.patch(&pages);
        let want = if merged { vec![] } else { vec![40] };
        equal(format!("pages lost, monitor's log merged: {merged}"), image.escapes(), want)?;
    }
    Ok(())
}
