//! The serial console: a 16550 at COM1.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Where the guest's output goes.
pub type Console = Box<dyn Write + Send>;

/// A 16550 that writes to a [`Console`] and raises its interrupt through an event descriptor.
pub struct SerialPort {
    serial: Mutex<Serial<Interrupt, NoEvents, Console>>,
    interrupt: Interrupt,
}

/// What a serial port holds at a cut; the fields are the registers of a 16550.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialSaved {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

/// Raises the port's interrupt line; without a descriptor nobody listens.
#[derive(Clone)]
struct Interrupt(Option<Arc<EventFd>>);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |fd| fd.write(1))
    }
}

impl SerialPort {
    /// A port in its reset state.
    #[must_use]
    pub fn new(interrupt: Option<EventFd>, console: Console) -> Self {
        let interrupt = Interrupt(interrupt.map(Arc::new));
        Self { serial: Mutex::new(Serial::new(interrupt.clone(), console)), interrupt }
    }

    /// Puts back what was saved; the console stays.
    ///
    /// # Errors
    /// If the saved receive buffer is longer than the device's, or the interrupt cannot be raised; the console is lost then.
    pub fn load(&self, saved: &SerialSaved) -> Result<(), String> {
        let state = SerialState {
            baud_divisor_low: saved.baud_divisor_low,
            baud_divisor_high: saved.baud_divisor_high,
            interrupt_enable: saved.interrupt_enable,
            interrupt_identification: saved.interrupt_identification,
            line_control: saved.line_control,
            line_status: saved.line_status,
            modem_control: saved.modem_control,
            modem_status: saved.modem_status,
            scratch: saved.scratch,
            in_buffer: saved.in_buffer.clone(),
        };
        let mut serial = self.lock();
        let blank = Serial::new(Interrupt(None), Box::new(io::sink()) as Console);
        let console = std::mem::replace(&mut *serial, blank).into_writer();
        *serial = Serial::from_state(&state, self.interrupt.clone(), NoEvents, console)
            .map_err(|e| format!("the serial port's state is damaged: {e:?}"))?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Interrupt, NoEvents, Console>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest writes `value` to register `offset`.
    pub fn write(&self, offset: u8, value: u8) {
        // A console that cannot be written (a closed pipe) is the operator's choice; the guest goes on.
        if let Err(error) = self.lock().write(offset, value) {
            tracing::debug!(?error, "the console took no byte");
        }
    }

    /// The guest reads register `offset`.
    pub fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    /// Bytes typed at the console; returns how many the port took.
    ///
    /// # Errors
    /// If the interrupt cannot be raised.
    pub fn input(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut serial = self.lock();
        let room = serial.fifo_capacity().min(bytes.len());
        serial.enqueue_raw_bytes(&bytes[..room]).map_err(|e| io::Error::other(format!("{e:?}")))
    }

    /// The registers and what was typed but not yet read.
    #[must_use]
    pub fn save(&self) -> SerialSaved {
        let state = self.lock().state();
        SerialSaved {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        }
    }
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").field("state", &self.save()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_reaches_the_console_and_state_survives() {
        let out = Shared::default();
        let port = SerialPort::new(None, Box::new(out.clone()));
        for byte in *b"hello" {
            port.write(0, byte);
        }
        assert_eq!(*out.0.lock().unwrap(), b"hello");

        port.write(7, 0x5a);
        assert_eq!(port.input(b"typed").unwrap(), 5);
        let saved = port.save();
        let kept = Shared::default();
        let again = SerialPort::new(None, Box::new(kept.clone()));
        again.load(&saved).unwrap();
        assert_eq!(again.read(7), 0x5a);
        assert_eq!(again.read(0), b't');
        again.write(0, b'!');
        assert_eq!(*kept.0.lock().unwrap(), b"!");
    }
}
