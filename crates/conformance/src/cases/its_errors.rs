//! What the interrupt controller refuses, and when.

use std::thread;

use ringmark_abi::{Errno, mem};

use super::its_rig::{
    COLLECTION_TABLE, DIST_BASE, ITS, ITS_BASE, ITTS, ItsRig, RAM_BASE, REDIST_BASE, VGIC_V3, attr, group,
    mapd, mapti, reg,
};
use crate::bench::Bench;
use crate::case::Case;
use crate::target::Program;
use crate::verdict::{Must, Stop, Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T74",
        "gic-busy",
        [WithBitmap, Gic],
        busy,
        "kvm_trylock_all_vcpus",
        "While a vCPU is in KVM_RUN the interrupt controller answers EBUSY; the logs can be read all the same."
    ),
    case!(
        "T75",
        "gic-errors",
        [Gic],
        errors,
        "vgic_its_set_attr, vgic_its_ctrl, vgic_v3_set_attr",
        "Each misuse of the interrupt controller's attributes has its error number."
    ),
];

fn busy(bench: &Bench) -> Verdict {
    let its = ItsRig::with_devices(bench, true)?;
    let ItsRig { rig, mut cpu, ram, vgic, its, .. } = its;
    cpu.raw().load(&Program::Spin)?;
    let kick = cpu.raw().kicker();
    let save = || its.set(group::CTRL, attr::SAVE_TABLES, 0);
    thread::scope(|scope| {
        let spinning = scope.spawn(|| cpu.try_run());
        let asked = (|| {
            // Until the vCPU is inside, the answer is 0.
            while save() == Ok(()) && !spinning.is_finished() && !rig.watch().expired() {
                thread::yield_now();
            }
            equal("ITS_SAVE_TABLES", save(), Err(Errno::EBUSY))?;
            let pending = vgic.set(group::CTRL, attr::SAVE_PENDING, 0);
            equal("SAVE_PENDING_TABLES", pending, Err(Errno::EBUSY))?;
            equal("an ITS register", its.get(group::ITS_REGS, reg::CTLR), Err(Errno::EBUSY))?;
            equal("a redistributor register", vgic.get(group::REDIST_REGS, 0), Err(Errno::EBUSY))?;
            equal("KVM_GET_DIRTY_LOG", rig.try_get(&ram).map(drop), Ok(()))?;
            equal("KVM_RESET_DIRTY_RINGS", rig.vm().reset(0), Ok(0))
        })();
        kick();
        let left = spinning.join().map_err(|_| Stop::Broken("the vCPU's thread panicked".into()))?;
        asked?;
        equal("the kicked run", left?, Err(Errno::EINTR))?;
        equal("ITS_SAVE_TABLES afterwards", save(), Ok(()))
    })
}

fn errors(bench: &Bench) -> Verdict {
    devices(bench)?;
    addresses(bench)?;
    controls(bench)?;
    registers(bench)?;
    tables(bench)
}

fn devices(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let create = |kind| -> Result<Result<(), Errno>, Stop> { Ok(vm.vm().create_device(kind)?.map(drop)) };
    equal("a device of an unknown type", create(0xdead)?, Err(Errno::ENODEV))?;
    let slot = vm.log_slot(1, 0x1000, 16)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, [0])?;
    equal("a VGICv3 after a vCPU has run", create(VGIC_V3)?, Err(Errno::EBUSY))?;

    let vm = bench.ring(1024)?;
    let _cpu = vm.vcpu(0)?;
    let create = |kind| -> Result<Result<(), Errno>, Stop> { Ok(vm.vm().create_device(kind)?.map(drop)) };
    equal("a VGICv3", create(VGIC_V3)?, Ok(()))?;
    equal("a second VGICv3", create(VGIC_V3)?, Err(Errno::EEXIST))?;
    equal("an ITS", create(ITS)?, Ok(()))?;
    equal("a second ITS", create(ITS)?, Ok(()))
}

fn addresses(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let _cpu = vm.vcpu(0)?;
    let vgic = vm.vm().create_device(VGIC_V3)?.must("creating the VGICv3")?;
    let its = vm.vm().create_device(ITS)?.must("creating the ITS")?;
    equal("an ITS register before the address", its.get(group::ITS_REGS, reg::CTLR), Err(Errno::ENXIO))?;
    let nothing = ["SAVE_TABLES", "RESTORE_TABLES", "CTRL_RESET"];
    for (what, attr) in nothing.into_iter().zip([attr::SAVE_TABLES, attr::RESTORE_TABLES, attr::RESET]) {
        equal(format!("{what} with nothing configured"), its.set(group::CTRL, attr, 0), Ok(()))?;
    }
    let place = |attr, address| its.set(group::ADDR, attr, address);
    equal("a misaligned address", place(attr::ITS_ADDR, ITS_BASE + 0x1000), Err(Errno::EINVAL))?;
    equal("an address past the guest's", place(attr::ITS_ADDR, 1 << 51), Err(Errno::E2BIG))?;
    equal("another frame's attribute", place(attr::DIST_ADDR, ITS_BASE), Err(Errno::ENODEV))?;
    equal("the address", place(attr::ITS_ADDR, ITS_BASE), Ok(()))?;
    equal("the address again", place(attr::ITS_ADDR, ITS_BASE), Err(Errno::EEXIST))?;

    vgic.set(group::ADDR, attr::DIST_ADDR, DIST_BASE).must("the distributor's address")?;
    vgic.set(group::ADDR, attr::REDIST_ADDR, REDIST_BASE).must("the redistributors' address")?;
    let save = || vgic.set(group::CTRL, attr::SAVE_PENDING, 0);
    equal("SAVE_PENDING_TABLES before INIT", save(), Err(Errno::ENXIO))?;
    vgic.set(group::CTRL, attr::INIT, 0).must("initialising the VGICv3")?;
    equal("SAVE_PENDING_TABLES after INIT", save(), Ok(()))
}

fn controls(bench: &Bench) -> Verdict {
    let its = ItsRig::bare(bench.ring(1024)?, mem::LOG_DIRTY_PAGES)?.its;
    // Accepted in silence up to 6.12; 7.2 refuses it. Between them nobody has looked.
    let unknown = its.set(group::CTRL, 77, 0);
    let accepted = match bench.facts().release {
        Some(release) if release <= (6, 12) => unknown == Ok(()),
        Some(release) if release < (7, 2) => matches!(unknown, Ok(()) | Err(Errno::ENXIO)),
        _ => unknown == Err(Errno::ENXIO),
    };
    equal(format!("an unknown control answering {unknown:?}"), accepted, true)?;
    equal("an unknown group", its.set(99, 0, 0), Err(Errno::ENXIO))
}

fn registers(bench: &Bench) -> Verdict {
    let rig = ItsRig::programmed(bench.ring(1024)?, mem::LOG_DIRTY_PAGES)?;
    equal("a register that is none", rig.its.get(group::ITS_REGS, 0x200), Err(Errno::ENXIO))?;
    equal("a misaligned register", rig.its.get(group::ITS_REGS, reg::CBASER + 4), Err(Errno::EINVAL))?;
    let iidr = rig.its.get(group::ITS_REGS, reg::IIDR).must("GITS_IIDR")?;
    equal("GITS_IIDR as it is", rig.register(reg::IIDR, iidr), Ok(()))?;
    equal("GITS_IIDR of revision 1", rig.register(reg::IIDR, iidr | 1 << 12), Err(Errno::EINVAL))?;
    equal("GITS_CREADR while enabled", rig.register(reg::CREADR, 0), Err(Errno::EBUSY))?;
    equal("GITS_CTLR off", rig.register(reg::CTLR, 0), Ok(()))?;
    equal("GITS_CREADR past the queue", rig.register(reg::CREADR, 0xf_ffe0), Err(Errno::EINVAL))
}

fn tables(bench: &Bench) -> Verdict {
    const ELSEWHERE: u64 = 0x4800_0000;
    let control = |rig: &ItsRig, attr| rig.its.set(group::CTRL, attr, 0);
    let rig = bench.ring(1024)?;
    let page = rig.page_bytes();
    let elsewhere = rig.log_slot(9, ELSEWHERE / page, 0x1_0000 / page)?;
    let mut rig = ItsRig::programmed(rig, mem::LOG_DIRTY_PAGES)?;
    rig.command(&[mapd(5, Some(ELSEWHERE - RAM_BASE)), mapti(5, 7, 8192)])?;
    rig.rig.delete(&elsewhere)?;
    equal("SAVE_TABLES of a translation table without memory", rig.try_save(), Err(Errno::EFAULT))?;

    let bad_entries = [("an LPI below 8192", 5 << 16 | 3), ("an unknown collection", 8192 << 16 | 77)];
    for (what, entry) in bad_entries {
        let mut rig = ItsRig::programmed(bench.ring(1024)?, mem::LOG_DIRTY_PAGES)?;
        rig.map_devices()?;
        rig.save()?;
        equal("CTRL_RESET", control(&rig, attr::RESET), Ok(()))?;
        rig.program_tables(RAM_BASE + COLLECTION_TABLE)?;
        rig.ram.ram.write(ITTS + 7 * 8, entry);
        let restored = control(&rig, attr::RESTORE_TABLES);
        equal(format!("RESTORE_TABLES of {what}"), restored, Err(Errno::EINVAL))?;
    }
    Ok(())
}
