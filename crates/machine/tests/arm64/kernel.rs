//! Flat images on /dev/kvm of arm64.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use ringmark_guest::Pattern;
use ringmark_machine::{Boot, CreateError, End, Machine, MachineConfig};
use ringmark_track::Wish;

use crate::common::guest;
use crate::tables::kvm;

#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An image with a header, whose code follows it.
fn image(code: &[u32]) -> Vec<u8> {
    let mut image = vec![0; 64];
    // b #64
    image[..4].copy_from_slice(&0x1400_0010_u32.to_le_bytes());
    image[16..24].copy_from_slice(&0x1_0000_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image.extend(code.iter().flat_map(|instruction| instruction.to_le_bytes()));
    image
}

fn config(name: &str, image: Vec<u8>) -> Option<MachineConfig> {
    let mut config = guest(kvm(name)?, Wish::Auto, Pattern::Sequential);
    config.memory = 16 << 20;
    config.boot = Boot::Kernel { image, command_line: "quiet".into() };
    Some(config)
}

fn run(config: MachineConfig) -> (End, Vec<u8>) {
    let console = Console::default();
    let machine = Machine::create(config, Box::new(console.clone())).unwrap_or_else(|e| panic!("{e}"));
    machine.resume().unwrap();
    let end = machine.wait().unwrap_or_else(|e| panic!("{e}"));
    drop(machine);
    let said = console.0.lock().unwrap().clone();
    (end, said)
}

#[test]
fn a_flat_image_finds_its_console_and_its_device_tree() {
    let code = [
        0xd2a1_2001, // movz x1, #0x900, lsl #16: the console
        0x5280_0d62, // movz w2, #'k'
        0xb900_0022, // str w2, [x1]
        0x3940_0002, // ldrb w2, [x0]: the first byte of the device tree
        0xd2a1_2021, // movz x1, #0x901, lsl #16: the end
        0xb900_0022, // str w2, [x1]
        0x1400_0000, // b .
    ];
    let Some(config) = config("a_flat_image_finds_its_console_and_its_device_tree", image(&code)) else {
        return;
    };
    assert_eq!(run(config), (End::Exit(0xd0), b"k".to_vec()));
}

#[test]
fn firmware_switches_the_machine_off() {
    let code = [
        0x5280_0100, // movz w0, #8
        0x72b0_8000, // movk w0, #0x8400, lsl #16: SYSTEM_OFF
        0xd400_0002, // hvc #0
        0x1400_0000, // b .
    ];
    let Some(config) = config("firmware_switches_the_machine_off", image(&code)) else { return };
    assert_eq!(run(config).0, End::Shutdown);
}

#[test]
fn what_is_no_flat_image_is_refused() {
    let Some(config) = config("what_is_no_flat_image_is_refused", b"\x7fELF".repeat(40)) else { return };
    let refused = Machine::create(config, Box::new(io::sink()));
    assert!(matches!(refused, Err(CreateError::Boot(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("ELF"));
}
