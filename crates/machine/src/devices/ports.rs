//! Port I/O of the reference machine.

use super::SerialPort;

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

/// What a port access asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEffect {
    /// Nothing more.
    None,
    /// The guest reset its processor: the machine ends.
    Reset,
    /// The guest ended with this code.
    Exit(u8),
}

/// The machine's ports; one that nothing answers reads as all ones, as on a PC.
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
            _ => data.fill(0xff),
        }
    }
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
    fn the_ways_to_end_a_machine() {
        assert_eq!(ports().write(KEYBOARD_COMMAND, &[PULSE_RESET]), PortEffect::Reset);
        assert_eq!(ports().write(RESET_CONTROL, &[0x06]), PortEffect::Reset);
        assert_eq!(ports().write(DEBUG_EXIT, &[3]), PortEffect::Exit(3));
        assert_eq!(ports().write(0x80, &[3]), PortEffect::None);
        assert_eq!(ports().write(SERIAL, &[]), PortEffect::None);
    }
}
