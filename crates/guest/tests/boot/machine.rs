//! A test machine on `/dev/kvm`: loads the program, starts its vCPUs at the PVH entry, collects what they print.
#![allow(unsafe_code, reason = "memory regions and signals of a virtual machine are raw by nature")]

use std::collections::VecDeque;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_mp_state, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use ringmark_guest::{HALT_PORT, X86_64_PVH};

use crate::memory::GuestMemory;

const START_INFO: u64 = 0x6000;
const COMMAND_LINE: u64 = 0x7000;
const MEMORY_MAP: u64 = 0x8000;

/// `/dev/kvm`, or a visible skip.
pub(crate) fn kvm(test: &str) -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            eprintln!("SKIPPED {test}: no /dev/kvm ({error})");
            None
        }
    }
}

/// Whether vCPUs have pages of 1 GiB; with shadow paging they don't.
pub(crate) fn huge_pages(kvm: &Kvm) -> bool {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).expect("KVM_GET_SUPPORTED_CPUID");
    cpuid.as_slice().iter().any(|leaf| leaf.function == 0x8000_0001 && leaf.edx & 1 << 26 != 0)
}

pub(crate) struct Machine {
    pub(crate) memory: Arc<GuestMemory>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    _vm: VmFd,
}

#[derive(Default)]
struct Shared {
    console: Mutex<Console>,
    printed: Condvar,
    pause: AtomicBool,
    paused: AtomicUsize,
    end: AtomicBool,
    ended: AtomicUsize,
}

#[derive(Default)]
struct Console {
    partial: String,
    lines: VecDeque<String>,
}

impl Machine {
    pub(crate) fn new(kvm: &Kvm, memory: GuestMemory, vcpus: u8, irqchip: bool, line: &str) -> Self {
        install_kick_handler();
        let vm = kvm.create_vm().expect("KVM_CREATE_VM");
        let memory = Arc::new(memory);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.bytes() as u64,
            userspace_addr: memory.address(),
        };
        // SAFETY: the mapping covers the region and outlives the vCPUs: `drop` joins their threads first.
        unsafe { vm.set_user_memory_region(region) }.expect("KVM_SET_USER_MEMORY_REGION");
        if irqchip {
            vm.create_irq_chip().expect("KVM_CREATE_IRQCHIP");
        }
        let entry = load_elf(&memory, X86_64_PVH);
        write_start_info(&memory, line);

        let shared = Arc::new(Shared::default());
        let threads = (0..vcpus)
            .map(|index| {
                let vcpu = vm.create_vcpu(u64::from(index)).expect("KVM_CREATE_VCPU");
                set_up(kvm, &vcpu, index, entry, irqchip);
                let shared = Arc::clone(&shared);
                thread::spawn(move || run(vcpu, &shared))
            })
            .collect();
        Self { memory, shared, threads, _vm: vm }
    }

    /// The next line on the serial console.
    pub(crate) fn line(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut console = self.shared.console.lock().expect("console");
        loop {
            if let Some(line) = console.lines.pop_front() {
                return line;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the guest prints nothing; so far: {:?}", console.partial);
            console = self.shared.printed.wait_timeout(console, left).expect("console").0;
        }
    }

    /// Takes every vCPU out of the guest, wherever it is.
    pub(crate) fn pause(&self) {
        self.shared.pause.store(true, Ordering::SeqCst);
        self.kick_until(|shared| shared.paused.load(Ordering::SeqCst) + shared.ended.load(Ordering::SeqCst));
    }

    pub(crate) fn resume(&self) {
        self.shared.pause.store(false, Ordering::SeqCst);
        self.threads.iter().for_each(|vcpu| vcpu.thread().unpark());
        while self.shared.paused.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
    }

    /// Waits until every vCPU has halted by itself.
    pub(crate) fn wait_halted(&self) {
        while self.shared.ended.load(Ordering::SeqCst) < self.threads.len() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn kick_until(&self, count: impl Fn(&Shared) -> usize) {
        while count(&self.shared) < self.threads.len() {
            for vcpu in &self.threads {
                // SAFETY: the thread has not been joined, so its handle is valid; the signal's handler does nothing.
                unsafe { libc::pthread_kill(vcpu.as_pthread_t(), libc::SIGUSR1) };
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        self.shared.pause.store(false, Ordering::SeqCst);
        self.threads.iter().for_each(|vcpu| vcpu.thread().unpark());
        self.kick_until(|shared| shared.ended.load(Ordering::SeqCst));
        for vcpu in self.threads.drain(..) {
            let _ = vcpu.join();
        }
    }
}

extern "C" fn kicked(_: libc::c_int) {}

fn install_kick_handler() {
    let handler: extern "C" fn(libc::c_int) = kicked;
    // SAFETY: the handler is an empty function, safe at any time; without SA_RESTART the signal ends KVM_RUN.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
}

fn run(mut vcpu: VcpuFd, shared: &Shared) {
    while !shared.end.load(Ordering::SeqCst) {
        if shared.pause.load(Ordering::SeqCst) {
            shared.paused.fetch_add(1, Ordering::SeqCst);
            while shared.pause.load(Ordering::SeqCst) {
                thread::park_timeout(Duration::from_millis(1));
            }
            shared.paused.fetch_sub(1, Ordering::SeqCst);
        }
        match vcpu.run() {
            Ok(VcpuExit::IoOut(0x3f8, bytes)) => print(shared, bytes),
            Ok(VcpuExit::IoOut(HALT_PORT, _)) => break,
            Ok(other) => {
                let text = format!("unexpected exit: {other:?}");
                let registers = vcpu.get_regs();
                print(shared, format!("{text} at {registers:x?}\n").as_bytes());
                break;
            }
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => {
                print(shared, format!("KVM_RUN: {error}\n").as_bytes());
                break;
            }
        }
    }
    shared.ended.fetch_add(1, Ordering::SeqCst);
}

fn print(shared: &Shared, bytes: &[u8]) {
    let mut console = shared.console.lock().expect("console");
    for &byte in bytes {
        if byte == b'\n' {
            let line = std::mem::take(&mut console.partial);
            console.lines.push_back(line);
            shared.printed.notify_all();
        } else {
            console.partial.push(char::from(byte));
        }
    }
}

fn set_up(kvm: &Kvm, vcpu: &VcpuFd, index: u8, entry: u64, irqchip: bool) {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).expect("KVM_GET_SUPPORTED_CPUID");
    for leaf in cpuid.as_mut_slice().iter_mut().filter(|leaf| leaf.function == 1) {
        leaf.ebx = leaf.ebx & 0x00ff_ffff | u32::from(index) << 24;
    }
    vcpu.set_cpuid2(&cpuid).expect("KVM_SET_CPUID2");
    let mut system = vcpu.get_sregs().expect("KVM_GET_SREGS");
    let flat = |selector, type_| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    system.cs = flat(0x08, 11);
    for data in [&mut system.ds, &mut system.es, &mut system.fs, &mut system.gs, &mut system.ss] {
        *data = flat(0x10, 3);
    }
    system.tr = kvm_segment { limit: 0x67, type_: 11, present: 1, ..Default::default() };
    system.cr0 = 0x11;
    system.cr4 = 0;
    system.efer = 0;
    vcpu.set_sregs(&system).expect("KVM_SET_SREGS");
    let mut registers = vcpu.get_regs().expect("KVM_GET_REGS");
    registers.rip = entry;
    registers.rbx = START_INFO;
    registers.rflags = 2;
    vcpu.set_regs(&registers).expect("KVM_SET_REGS");
    if irqchip {
        vcpu.set_mp_state(kvm_mp_state { mp_state: 0 }).expect("KVM_SET_MP_STATE");
    }
}

/// Copies the segments to their places and returns the PVH entry.
fn load_elf(memory: &GuestMemory, elf: &[u8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().expect("four bytes"));
    let index = |at: usize| usize::try_from(word(at)).expect("an offset");
    let headers = index(32);
    let count = usize::from(u16::from_le_bytes([elf[56], elf[57]]));
    let mut entry = None;
    for header in (headers..).step_by(56).take(count) {
        let (offset, address, bytes) = (index(header + 8), word(header + 24), index(header + 32));
        match half(header) {
            1 => memory.write(address, &elf[offset..offset + bytes]),
            4 => {
                let note = [half(offset), half(offset + 4), half(offset + 8)];
                assert_eq!((note, &elf[offset + 12..offset + 16]), ([4, 4, 18], b"Xen\0".as_slice()));
                entry = Some(u64::from(half(offset + 16)));
            }
            _ => {}
        }
    }
    entry.expect("a PVH note")
}

fn write_start_info(memory: &GuestMemory, line: &str) {
    let mut info = Vec::new();
    info.extend(0x336e_c578_u32.to_le_bytes());
    info.extend(1_u32.to_le_bytes());
    info.extend([0; 16]);
    info.extend(COMMAND_LINE.to_le_bytes());
    info.extend(0_u64.to_le_bytes());
    info.extend(MEMORY_MAP.to_le_bytes());
    info.extend(2_u64.to_le_bytes());
    memory.write(START_INFO, &info);
    memory.write(COMMAND_LINE, &[line.as_bytes(), b"\0"].concat());
    let high = memory.bytes() as u64 - 0x10_0000;
    let map: Vec<u8> =
        [0, 0xa_0000, 1, 0x10_0000, high, 1].iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
    memory.write(MEMORY_MAP, &map);
}
