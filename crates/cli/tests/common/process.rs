//! Processes that end with the test, whatever becomes of it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use ringmark_control::{Client, GuestState, Status};
use rustix::process::Pid;

use super::wait_for;

/// A process, with all that it says.
pub(crate) struct Running {
    child: Child,
    out: Said,
    err: Said,
}

/// The lines of one stream; the last may be incomplete.
struct Said {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Said {
    fn by(stream: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        let read = move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                into.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        };
        Self { lines, reader: Some(thread::spawn(read)) }
    }

    fn now(&self) -> String {
        self.lines.lock().unwrap().concat()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.now()
    }
}

impl Running {
    /// Starts `command`, whose output is piped.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let out = Said::by(child.stdout.take().unwrap());
        let err = Said::by(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    pub(crate) fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The other end of a piped standard input.
    pub(crate) fn keyboard(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Complete lines on stdout so far, from line `from` on.
    pub(crate) fn lines(&self, from: usize) -> Vec<String> {
        let lines = self.out.lines.lock().unwrap();
        lines
            .iter()
            .skip(from)
            .filter(|line| line.ends_with('\n'))
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// What was said on stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.err.now()
    }

    /// Waits until the machine answers at `socket`, and runs.
    pub(crate) fn answers_at(&mut self, socket: &Path) -> Status {
        wait_for(&format!("an answer at {}", socket.display()), || {
            let answer = Client::connect(socket).ok().and_then(|client| client.status().ok());
            if answer.is_none() && self.child.try_wait().unwrap().is_some() {
                panic!("the machine ended: {}", self.err.all());
            }
            // A name may be another machine's; and the socket is there before the guest runs.
            answer.filter(|status| status.pid == self.child.id() && status.guest == GuestState::Running)
        })
    }

    /// Kills the process as a power failure would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it had ended before: {}", self.err.all());
    }

    /// Waits for the process to end by itself.
    pub(crate) fn end(mut self) -> Done {
        let status = wait_for("the end of a process", || self.child.try_wait().unwrap());
        Done { code: status.code(), stdout: self.out.all(), stderr: self.err.all() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- stderr of process {}:\n{}", self.child.id(), self.stderr());
            let lines = self.lines(0);
            eprintln!(
                "--- its last lines of {}: {:#?}",
                lines.len(),
                &lines[lines.len().saturating_sub(8)..]
            );
        }
    }
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The same, which did what it was told.
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// The one document on stdout; anything beside it is an error.
    pub(crate) fn json(&self) -> serde_json::Value {
        let document: serde_json::Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        assert_eq!(document["schema"], 1, "{self:#?}");
        document
    }

    /// Fails with `code` and one error that has all `words` in it.
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let errors = self.stderr.lines().filter(|line| line.starts_with("ringmark: ")).count();
        assert_eq!(errors, 1, "one error and no more: {self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not said: {self:#?}");
        }
    }

    /// As [`fails`](Self::fails), and says what the guest does now, in `guest`'s words.
    pub(crate) fn fails_with_guest(&self, code: i32, guest: &str, words: &[&str]) {
        self.fails(code, words);
        let line = self.stderr.lines().find(|line| line.starts_with("  guest: "));
        assert!(line.is_some_and(|line| line.contains(guest)), "the guest is not `{guest}`: {self:#?}");
    }
}
