//! Starts a machine and reads its console until it ends, within limits.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A machine that does not outlive the watch over it.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // One that has ended by itself cannot be ended again.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `command` and hands each line that it prints to `line`, until it has nothing more to print or `line` breaks.
/// All of it also goes to the file `log`.
///
/// # Errors
/// If it cannot be started, ends by an error of its own, runs for longer than `limit`, or prints nothing for `silence`.
pub(super) fn watch(
    command: &mut Command,
    limit: Duration,
    silence: Duration,
    log: &Path,
    mut line: impl FnMut(&str) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut log = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut machine = Machine(child);
    let console = machine.0.stdout.take().context("the console cannot be read")?;
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut bytes = Vec::new();
        // A console that cannot be read any more is one that has ended.
        while console.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            if send.send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receive.recv_timeout(left.min(silence)) {
            Ok(text) => {
                log.write_all(text.as_bytes()).context("cannot write the console's log")?;
                if line(&text)?.is_break() {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if left <= silence => {
                bail!("the machine did not end within {} s", limit.as_secs())
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the machine hangs: nothing on its console for {} s", silence.as_secs())
            }
        }
    }
    let status = machine.0.wait().with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    fn console(script: &str, limit: Duration, silence: Duration) -> (Result<()>, Vec<String>) {
        let home = tempfile::tempdir().expect("a directory");
        let log = home.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut lines = Vec::new();
        let ended = watch(&mut command, limit, silence, &log, |line| {
            lines.push(line.trim_end().to_owned());
            Ok(if line.contains("stop") { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert_eq!(std::fs::read_to_string(&log).expect("a log").lines().collect::<Vec<_>>(), lines);
        (ended, lines)
    }

    #[test]
    fn lines_arrive_in_order_up_to_the_end() {
        let (ended, lines) = console("echo one; echo two", LONG, LONG);
        assert!(ended.is_ok());
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_break_ends_the_machine() {
        let (ended, lines) = console("echo stop; exec sleep 100", LONG, LONG);
        assert!(ended.is_ok());
        assert_eq!(lines, ["stop"]);
    }

    #[test]
    fn a_machine_that_hangs_is_an_error() {
        let (ended, lines) = console("echo one; exec sleep 100", LONG, SHORT);
        assert!(ended.expect_err("a hang").to_string().contains("hangs"));
        assert_eq!(lines, ["one"]);
        let (ended, _) = console("while :; do echo one; sleep 0.01; done", SHORT, LONG);
        assert!(ended.expect_err("too long").to_string().contains("did not end"));
    }

    #[test]
    fn an_emulator_that_fails_is_an_error() {
        let (ended, _) = console("exit 3", LONG, LONG);
        assert!(ended.expect_err("a failure").to_string().contains("failed"));
    }
}
