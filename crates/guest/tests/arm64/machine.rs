//! A test machine on arm64's KVM: loads the program, runs its vCPUs, collects what they print, saves and restores it
//! whole.
#![allow(unsafe_code, reason = "memory regions of a virtual machine are raw by nature")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_abi::{MemoryRegion, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_guest::arm64::{CONSOLE, ENTRY, HALT, IMAGE, MAILBOX, RAM};
use ringmark_guest::{
    Config, Control, FIRST_LPI, Interrupts, Pattern, Report, Status, check_result, inspect, request_check,
};
use ringmark_kvm::gic::{addr, ctrl, device_type, group};
use ringmark_kvm::register::{PC, PSTATE, x};
use ringmark_kvm::{Exit, Power, System, Vcpu, VcpuState, Vm, VmState};

use crate::memory::{GuestMemory, View};

/// A page of the programs'.
pub(crate) const PAGE: u64 = 4096;
const MEMORY: usize = 16 << 20;
/// How long anything may take: all is emulated in the lab, twice.
const LIMIT: Duration = Duration::from_secs(120);

const DISTRIBUTOR: u64 = 0x0800_0000;
const TRANSLATORS: u64 = 0x0808_0000;
const REDISTRIBUTORS: u64 = 0x0810_0000;
const FRAME: u64 = 0x2_0000;

/// The host's KVM, or `None` after saying that `test` is skipped.
pub(crate) fn system(test: &str) -> Option<System> {
    match System::open() {
        Ok(system) => Some(system),
        Err(why) => {
            eprintln!("SKIPPED {test}: no /dev/kvm ({why})");
            None
        }
    }
}

/// What a machine is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) vcpus: u32,
    pub(crate) pages: u64,
    pub(crate) pattern: Pattern,
    /// Interrupt translation services, and devices and events of each; none for no interrupt controller.
    pub(crate) its: Option<[u64; 3]>,
}

impl Plan {
    pub(crate) fn layout(&self) -> (Config, Option<Interrupts>) {
        let wanted = Config {
            mailbox: MAILBOX,
            page_size: PAGE,
            hot: 0,
            pages: self.pages,
            ledger: 0,
            writers: self.vcpus.into(),
            pattern: self.pattern,
            pace: 0,
            seed: 77,
        };
        let free = (MAILBOX + wanted.mailbox_bytes()).next_multiple_of(64 << 10);
        let interrupts = self.its.map(|[count, devices, events]| Interrupts {
            area: free,
            distributor: DISTRIBUTOR,
            redistributors: REDISTRIBUTORS,
            translators: TRANSLATORS,
            count,
            devices,
            events,
        });
        let start = free + interrupts.map_or(0, |interrupts| interrupts.bytes(&wanted));
        let config = wanted.place(start, RAM + MEMORY as u64).expect("room for the hot region");
        (config, interrupts)
    }
}

/// A machine whose vCPUs run only in [`run_until`](Machine::run_until).
pub(crate) struct Machine {
    pub(crate) config: Config,
    pub(crate) interrupts: Option<Interrupts>,
    vcpus: Vec<Vcpu>,
    vm: Vm,
    pub(crate) memory: GuestMemory,
    console: Mutex<Vec<u8>>,
    halted: AtomicUsize,
}

/// Everything that a machine is at a cut.
pub(crate) struct Saved {
    vcpus: Vec<VcpuState>,
    vm: VmState,
    pub(crate) memory: GuestMemory,
    /// Pages of the pending tables with an interrupt in them that the programs wait for.
    pub(crate) pending: Vec<u64>,
    /// Pages that saving the translation tables has changed.
    pub(crate) tables: Vec<u64>,
}

impl Machine {
    /// A machine at its start.
    pub(crate) fn new(system: &System, plan: Plan) -> Self {
        let mut machine = Self::empty(system, plan);
        let (config, interrupts) = plan.layout();
        let view = &mut View(&machine.memory);
        let Ok(()) = config.publish(view, Control::RUN);
        if let Some(interrupts) = interrupts {
            interrupts.validate(&config).expect("sound");
            let Ok(()) = interrupts.publish(view, &config);
        }
        machine.memory.write(ENTRY, IMAGE);
        for (vcpu, number) in machine.vcpus.iter_mut().zip(0..) {
            for (register, value) in [(PC, ENTRY), (x(0), MAILBOX), (x(1), number)] {
                vcpu.set_register(register, value).expect("KVM_SET_ONE_REG");
            }
        }
        machine
    }

    fn empty(system: &System, plan: Plan) -> Self {
        let (config, interrupts) = plan.layout();
        let vm = system.create_vm().expect("KVM_CREATE_VM");
        let memory = GuestMemory::new(RAM, MEMORY);
        let region = MemoryRegion {
            slot: SlotId::new(0, 0),
            flags: 0,
            guest_phys_addr: RAM,
            memory_size: memory.bytes() as u64,
            userspace_addr: memory.address(),
        };
        // SAFETY: the mapping is dropped after the VM and its vCPUs, as the fields of the machine are declared.
        unsafe { vm.set_user_memory_region(&region) }.expect("KVM_SET_USER_MEMORY_REGION");
        let vcpu = |number| {
            let mut vcpu = vm.create_vcpu(number).expect("KVM_CREATE_VCPU");
            vcpu.init(Power::On).expect("KVM_ARM_VCPU_INIT");
            vcpu
        };
        let vcpus = (0..plan.vcpus).map(vcpu).collect();
        if let Some(Interrupts { count, .. }) = interrupts {
            let vgic = vm.create_device(device_type::ARM_VGIC_V3).expect("a VGIC");
            vgic.set_attr(group::ADDR, addr::V3_DIST, DISTRIBUTOR).expect("an address");
            vgic.set_attr(group::ADDR, addr::V3_REDIST, REDISTRIBUTORS).expect("an address");
            vgic.set_attr(group::CTRL, ctrl::INIT, 0).expect("a complete VGIC");
            for its in 0..count {
                let frame = TRANSLATORS + its * FRAME;
                let its = vm.create_device(device_type::ARM_VGIC_ITS).expect("an ITS");
                its.set_attr(group::ADDR, addr::ITS, frame).expect("an address");
                its.set_attr(group::CTRL, ctrl::INIT, 0).expect("a complete ITS");
            }
        }
        let (console, halted) = (Mutex::default(), AtomicUsize::new(0));
        Self { config, interrupts, vcpus, vm, memory, console, halted }
    }

    /// Runs all vCPUs until `done`, then stops them wherever they are.
    pub(crate) fn run_until(&mut self, what: &str, mut done: impl FnMut(&GuestMemory) -> bool) {
        self.run_while(|memory| !done(memory));
        assert!(done(&self.memory), "{what} does not come; the guest printed {:?}", self.printed());
    }

    /// Runs all vCPUs while it is to `go_on`, or until all have ended by themselves; how many have.
    pub(crate) fn run_while(&mut self, mut go_on: impl FnMut(&GuestMemory) -> bool) -> usize {
        let begun = Instant::now();
        let stop = AtomicBool::new(false);
        let Self { vcpus, memory, console, halted, .. } = self;
        let (stop, console, halted, ended) = (&stop, &*console, &*halted, vcpus.len());
        let kicks: Vec<_> = vcpus.iter().map(Vcpu::kick_handle).collect();
        thread::scope(|scope| {
            let threads: Vec<_> =
                vcpus.iter_mut().map(|vcpu| scope.spawn(|| run(vcpu, stop, console, halted))).collect();
            while go_on(memory) && halted.load(Ordering::SeqCst) < ended && begun.elapsed() < LIMIT {
                thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::SeqCst);
            while threads.iter().any(|thread| !thread.is_finished()) {
                kicks.iter().for_each(|kick| kick.kick().expect("a signal"));
                thread::sleep(Duration::from_millis(1));
            }
        });
        for vcpu in vcpus {
            assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted));
        }
        self.halted.load(Ordering::SeqCst)
    }

    /// All that was printed so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&self.console.lock().expect("console")).into_owned()
    }

    /// Gives the programs a command.
    pub(crate) fn tell(&mut self, control: Control) {
        let Ok(()) = self.config.set_control(&mut View(&self.memory), control);
    }

    /// Runs until every vCPU has written `more` pages.
    pub(crate) fn write(&mut self, more: u64) {
        let config = self.config;
        let written = |memory: &GuestMemory| -> Vec<u64> {
            let written = |writer| {
                let Ok(status) = Status::load(&mut View(memory), &config, writer);
                status.written
            };
            (0..config.writers).map(written).collect()
        };
        let before = written(&self.memory);
        self.run_until("a page write", |memory| {
            written(memory).iter().zip(&before).all(|(now, before)| now - before >= more)
        });
    }

    /// How many interrupts were raised, and how many taken.
    pub(crate) fn tally(&self) -> (u64, u64) {
        let interrupts = self.interrupts.expect("an interrupt controller");
        let Ok(tally) = interrupts.tally(&mut View(&self.memory), &self.config);
        (tally.raised, tally.taken)
    }

    /// Runs until `more` interrupts were taken.
    pub(crate) fn take_interrupts(&mut self, more: u64) {
        let (config, interrupts) = (self.config, self.interrupts.expect("an interrupt controller"));
        let taken = |memory: &GuestMemory| {
            let Ok(tally) = interrupts.tally(&mut View(memory), &config);
            tally.taken
        };
        let target = taken(&self.memory) + more;
        self.run_until("an interrupt", |memory| taken(memory) >= target);
    }

    /// Runs on until some interrupts are pending at the stop; how many are.
    pub(crate) fn write_until_pending(&mut self) -> u64 {
        loop {
            self.write(100);
            self.vm.save_pending_tables().expect("pending tables");
            let pending = self.pending().count() as u64;
            if pending > 0 {
                return pending;
            }
        }
    }

    /// The pages of the pending bits, as last saved, of interrupts that the programs still wait for. The ledger alone
    /// does not tell: where the first vCPU is stopped it may have noted an interrupt that it has yet to raise. Neither do
    /// the bits: KVM leaves one set for an LPI that was moved or unmapped since.
    fn pending(&self) -> impl Iterator<Item = u64> {
        let (config, interrupts) = (self.config, self.interrupts.expect("an interrupt controller"));
        let word = |gpa| self.memory.word(gpa).load(Ordering::Relaxed);
        let of_vcpu = move |vcpu| (0..interrupts.lpis()).map(move |lpi| (vcpu, lpi));
        (0..config.writers).flat_map(of_vcpu).filter_map(move |(vcpu, lpi)| {
            let intid = FIRST_LPI + lpi;
            let bits = interrupts.pending_table(vcpu) + intid / 64 * 8;
            let raised = word(interrupts.raised_gpa(&config, vcpu, lpi));
            let awaited = raised > word(interrupts.taken_gpa(&config, vcpu, lpi));
            (awaited && word(bits) >> (intid % 64) & 1 != 0).then_some(bits / PAGE * PAGE)
        })
    }

    /// What the programs find, and what is seen from outside; the programs write on when they are run again.
    pub(crate) fn check(&mut self) -> [Report; 2] {
        let config = self.config;
        let Ok(number) = request_check(&mut View(&self.memory), &config);
        let mut guest = None;
        self.run_until("a check", |memory| {
            let Ok(report) = check_result(&mut View(memory), &config, number);
            guest = report;
            report.is_some()
        });
        let view = &mut View(&self.memory);
        let Ok(outside) = inspect(view, &config);
        let Ok(()) = config.set_control(view, Control::RUN);
        [guest.expect("a result"), outside]
    }

    /// Saves a stopped machine: tables first, since they are memory.
    pub(crate) fn save(&mut self) -> Saved {
        self.vm.save_pending_tables().expect("pending tables");
        let mut pending: Vec<u64> = self.pending().collect();
        pending.dedup();
        let tables = self.changed(|vm| vm.save_its_tables().expect("translation tables"));
        let vcpus = self.vcpus.iter_mut().map(|vcpu| vcpu.state().expect("a vCPU's state")).collect();
        let vm = self.vm.state().expect("the VM's state");
        let memory = GuestMemory::new(RAM, MEMORY);
        copy(&self.memory, &memory);
        Saved { vcpus, vm, memory, pending, tables }
    }

    pub(crate) fn restore(system: &System, plan: Plan, saved: &Saved) -> Self {
        let mut machine = Self::empty(system, plan);
        copy(&saved.memory, &machine.memory);
        for (vcpu, state) in machine.vcpus.iter_mut().zip(&saved.vcpus) {
            vcpu.set_state(state).expect("a vCPU's state");
        }
        machine.vm.set_state(&saved.vm).expect("the VM's state");
        machine
    }

    /// Where each vCPU was stopped: its exception level and program counter.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, u64)> {
        let register = |vcpu: &Vcpu, id| vcpu.register(id).expect("KVM_GET_ONE_REG");
        self.vcpus.iter().map(move |vcpu| (register(vcpu, PSTATE) >> 2 & 3, register(vcpu, PC)))
    }

    /// Does something that writes the interrupt controller's memory, and gives the pages that it changed.
    fn changed(&self, writes: impl FnOnce(&Vm)) -> Vec<u64> {
        let Interrupts { area, .. } = self.interrupts.expect("an interrupt controller");
        let pages = || (area..self.config.ledger).step_by(4096).map(|gpa| (gpa, self.memory.page(gpa)));
        let before: Vec<_> = pages().collect();
        writes(&self.vm);
        let differ = before.into_iter().zip(pages()).filter(|(before, after)| before != after);
        differ.map(|((gpa, _), _)| gpa).collect()
    }
}

fn copy(from: &GuestMemory, to: &GuestMemory) {
    for gpa in (RAM..RAM + MEMORY as u64).step_by(8) {
        let word = from.word(gpa).load(Ordering::Relaxed);
        // What is zero stays untouched, as fresh memory is.
        if word != 0 {
            to.word(gpa).store(word, Ordering::Relaxed);
        }
    }
}

fn run(vcpu: &mut Vcpu, stop: &AtomicBool, console: &Mutex<Vec<u8>>, halted: &AtomicUsize) {
    while !stop.load(Ordering::SeqCst) {
        let line = match vcpu.run() {
            Ok(Exit::Interrupted) => continue,
            Ok(Exit::MmioWrite { address: CONSOLE, data: &[byte, _, _, _] }) => {
                console.lock().expect("console").push(byte);
                continue;
            }
            Ok(Exit::MmioWrite { address: HALT, data }) => {
                halted.fetch_add(1, Ordering::SeqCst);
                format!("halted with {data:?}\n")
            }
            Ok(other) => format!("unexpected exit: {other:?}\n"),
            Err(errno) => format!("KVM_RUN: {errno}\n"),
        };
        console.lock().expect("console").extend(line.bytes());
        return;
    }
}
