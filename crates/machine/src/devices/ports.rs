//! The reference machine's devices as the guest reaches them: at a PC's ports, or at addresses of a board.

use super::SerialPort;
use crate::layout::board;

/// COM1.
const SERIAL: u16 = 0x3f8;
const SERIAL_LAST: u16 = SERIAL + 7;
/// The keyboard controller, of which only the reset line is wired.
const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;
/// The chip-set's reset control register.
const RESET_CONTROL: u16 = 0xcf9;
const RESET_CPU: u8 = 0x04;
/// The test device by which a guest ends with a code (`isa-debug-exit` of QEMU at its usual port).
const DEBUG_EXIT: u16 = 0xf4;

/// What a read gives that nobody answers: ones, as on a bus that nobody drives.
pub(crate) const NOBODY: u8 = 0xff;

/// What an access to a device asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEffect {
    /// Nothing more.
    None,
    /// The guest reset its processor: the machine ends.
    Reset,
    /// The guest ended with this code.
    Exit(u8),
}

/// The machine's devices; what nothing answers reads as all ones.
#[derive(Debug)]
pub struct Ports {
    serial: SerialPort,
}

impl Ports {
    /// Ports with `serial` at COM1.
    #[must_use]
    pub fn new(serial: SerialPort) -> Self {
        Self { serial }
    }

    /// The serial console.
    #[must_use]
    pub fn serial(&self) -> &SerialPort {
        &self.serial
    }

    /// The guest writes `data` to `port`; several bytes to a byte-wide device are several writes.
    pub fn write(&self, port: u16, data: &[u8]) -> PortEffect {
        let first = data.first().copied().unwrap_or_default();
        match port {
            SERIAL..=SERIAL_LAST => {
                let register = (port - SERIAL).to_le_bytes()[0];
                data.iter().for_each(|byte| self.serial.write(register, *byte));
                PortEffect::None
            }
            KEYBOARD_COMMAND if first == PULSE_RESET => PortEffect::Reset,
            RESET_CONTROL if first & RESET_CPU != 0 => PortEffect::Reset,
            DEBUG_EXIT => PortEffect::Exit(first),
            _ => PortEffect::None,
        }
    }

    /// The guest reads `data.len()` bytes from `port`.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            SERIAL..=SERIAL_LAST => {
                let register = (port - SERIAL).to_le_bytes()[0];
                data.iter_mut().for_each(|byte| *byte = self.serial.read(register));
            }
            // An idle keyboard controller: its buffers are empty, so that a guest that drains it comes to an end.
            KEYBOARD_COMMAND => data.fill(0),
            _ => data.fill(NOBODY),
        }
    }

    /// The guest of a board writes to an address without memory; a device takes the first byte of an access of any width.
    pub fn write_mapped(&self, address: u64, data: &[u8]) -> PortEffect {
        let first = data.first().copied().unwrap_or_default();
        if let Some(register) = serial_register(address) {
            self.serial.write(register, first);
        } else if address == board::HALT {
            return PortEffect::Exit(first);
        }
        PortEffect::None
    }

    /// The guest of a board reads an address without memory.
    pub fn read_mapped(&self, address: u64, data: &mut [u8]) {
        if let Some(register) = serial_register(address) {
            data.fill(0);
            if let Some(first) = data.first_mut() {
                *first = self.serial.read(register);
            }
        } else {
            data.fill(NOBODY);
        }
    }
}

/// The register of the serial console at `address` of a board.
fn serial_register(address: u64) -> Option<u8> {
    let offset = address.checked_sub(board::SERIAL).filter(|&offset| offset < 8)?;
    u8::try_from(offset).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        Ports::new(SerialPort::new(None, Box::new(std::io::sink())))
    }

    #[test]
    fn an_empty_port_reads_as_ones_and_the_line_is_ready() {
        let mut word = [0; 2];
        ports().read(0x1234, &mut word);
        assert_eq!(word, [0xff, 0xff]);
        let mut status = [0];
        ports().read(SERIAL + 5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "transmitter empty");
    }

    #[test]
    fn a_board_has_the_same_devices_at_addresses() {
        let ports = ports();
        let mut word = [0; 4];
        ports.read_mapped(board::SERIAL + 5, &mut word);
        assert_eq!((word[0] & 0x60, &word[1..]), (0x60, &[0; 3][..]), "transmitter empty, in one register");
        ports.write_mapped(board::SERIAL + 7, &0xdead_be5a_u32.to_le_bytes());
        ports.read_mapped(board::SERIAL + 7, &mut word[..1]);
        assert_eq!(word[0], 0x5a);
        ports.read_mapped(0x1234, &mut word);
        assert_eq!(word, [NOBODY; 4]);
        assert_eq!(ports.write_mapped(board::HALT, &3_u32.to_le_bytes()), PortEffect::Exit(3));
        assert_eq!(ports.write_mapped(board::SERIAL, &[]), PortEffect::None);
        assert_eq!(ports.write_mapped(0x1234, &[1]), PortEffect::None);
    }

    #[test]
    fn the_ways_to_end_a_machine() {
        assert_eq!(ports().write(KEYBOARD_COMMAND, &[PULSE_RESET]), PortEffect::Reset);
        assert_eq!(ports().write(RESET_CONTROL, &[0x06]), PortEffect::Reset);
        assert_eq!(ports().write(DEBUG_EXIT, &[3]), PortEffect::Exit(3));
        assert_eq!(ports().write(0x80, &[3]), PortEffect::None);
        assert_eq!(ports().write(SERIAL, &[]), PortEffect::None);
    }
}
