//! The guest's console on this process's terminal.

use std::io::{self, Read, Write};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use ringmark_machine::Machine;
use ringmark_machine::devices::Console;

/// How long typed bytes wait for room in the guest's receive buffer before they are tried again.
const RETRY: Duration = Duration::from_millis(10);

/// The guest's output on stdout, each byte when it comes.
pub(crate) fn output() -> Console {
    struct Out;
    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            io::stdout().flush()
        }
    }
    Box::new(Out)
}

/// Hands what is typed at stdin to the guest, line by line as the terminal gives it, until stdin or the machine ends.
pub(crate) fn forward_input(machine: &Arc<Machine>) {
    let machine = Arc::downgrade(machine);
    let forward = move || {
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut buffer) {
            if !deliver(&machine, &buffer[..count]) {
                return;
            }
        }
    };
    // Without this thread the guest merely has nobody at its keyboard.
    if let Err(error) = thread::Builder::new().name("console".into()).spawn(forward) {
        tracing::warn!(%error, "the console takes no input");
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
