//! The guest's console on this process's terminal.

use std::io::{self, Read, Write};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use ringmark_machine::Machine;
use ringmark_machine::devices::Console;
use vmm_sys_util::signal::block_signal;

/// How long typed bytes wait for room in the guest's receive buffer before they are tried again.
const RETRY: Duration = Duration::from_millis(10);
/// How long a job in the background waits before it looks at its terminal again.
const BACKGROUND: Duration = Duration::from_secs(1);

/// The guest's output on stdout, each byte when it comes; with `as_json` stdout is kept for the document.
pub(crate) fn output(as_json: bool) -> Console {
    if as_json { Box::new(Flushed(io::stderr())) } else { Box::new(Flushed(io::stdout())) }
}

/// Writes through at once: a prompt has no end of line.
struct Flushed<W>(W);

impl<W: Write> Write for Flushed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Hands what is typed at stdin to the guest, line by line as the terminal gives it, until stdin or the machine ends.
pub(crate) fn forward_input(machine: &Arc<Machine>) {
    let machine = Arc::downgrade(machine);
    // Without this thread the guest merely has nobody at its keyboard.
    if let Err(error) = thread::Builder::new().name("console".into()).spawn(move || forward(&machine)) {
        tracing::warn!(%error, "the console takes no input");
    }
}

fn forward(machine: &Weak<Machine>) {
    // A background job that reads its terminal is stopped by this signal, guest and all; where it is blocked the read
    // fails instead (`tty_check_change`), and is tried again in case the job is brought to the front.
    if block_signal(libc::SIGTTIN).is_err() {
        return;
    }
    let mut buffer = [0; 256];
    loop {
        match io::stdin().lock().read(&mut buffer) {
            Ok(count @ 1..) => {
                if !deliver(machine, &buffer[..count]) {
                    return;
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EIO) => thread::sleep(BACKGROUND),
            Ok(0) | Err(_) => return,
        }
    }
}

/// Whether the machine still lives.
fn deliver(machine: &Weak<Machine>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some(machine) = machine.upgrade().filter(|machine| machine.outcome().is_none()) else {
            return false;
        };
        match machine.ports().serial().input(bytes) {
            Ok(0) => thread::sleep(RETRY),
            Ok(taken) => bytes = bytes.get(taken..).unwrap_or_default(),
            Err(_) => return false,
        }
    }
    true
}
