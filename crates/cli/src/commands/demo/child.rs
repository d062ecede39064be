//! A machine in a process of its own.

use std::fs::File;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_control::{Check, Checkpoint, CheckpointRequest, Client, Status};

use crate::failure::{Code, Failure, OrFail, Result};
use crate::{commands::checkpoint, remote};

/// How long a machine may take to answer at its socket: a restore reads and hashes all of memory first.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// A machine's process and the way to talk to it.
pub(super) struct Child {
    process: Guard,
    client: Client,
}

/// A process that is killed when it is dropped.
struct Guard(process::Child);

impl Child {
    /// Starts this program with `options`, its sockets below `home`, and waits until it answers.
    pub(super) fn start(home: &Path, name: &str, options: &[String]) -> Result<Self> {
        let program = std::env::current_exe().or_fail(Code::Failed)?;
        // A file, not a pipe: nobody reads while the machine runs, and a full pipe would hold it up.
        let said = home.join(format!("{name}.stderr"));
        let stderr = File::create(&said).or_fail(Code::Failed)?;
        let process = Command::new(program)
            .args(options)
            .env("XDG_RUNTIME_DIR", home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .or_fail(Code::Failed)?;
        let socket = home.join("ringmark").join(format!("{name}.sock"));
        wait_for(process, &socket, &said)
    }

    pub(super) fn status(&self) -> Result<Status> {
        self.client.status().map_err(|error| remote::failure(&error))
    }

    pub(super) fn checkpoint(&self, request: &CheckpointRequest, silent: bool) -> Result<Checkpoint> {
        checkpoint::take(&self.client, request, silent).map_err(|error| remote::failure(&error))
    }

    pub(super) fn check(&self) -> Result<Check> {
        self.client.check().map_err(|error| remote::failure(&error))
    }

    /// Ends the process as a power failure would.
    pub(super) fn kill(mut self) -> Result {
        self.process.0.kill().and_then(|()| self.process.0.wait()).map(drop).or_fail(Code::Failed)
    }

    /// Ends the machine in order.
    pub(super) fn stop(mut self) -> Result {
        self.client.stop().map_err(|error| remote::failure(&error))?;
        let begun = Instant::now();
        while self.process.0.try_wait().or_fail(Code::Failed)?.is_none() {
            if begun.elapsed() > STOP_LIMIT {
                return Err(Failure::new(Code::Failed, "a machine that was stopped did not end"));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

fn wait_for(process: process::Child, socket: &Path, said: &Path) -> Result<Child> {
    let begun = Instant::now();
    let mut guard = Guard(process);
    loop {
        if let Ok(client) = Client::connect(socket)
            && client.status().is_ok()
        {
            return Ok(Child { process: guard, client });
        }
        if let Some(status) = guard.0.try_wait().or_fail(Code::Failed)? {
            let said = std::fs::read_to_string(said).unwrap_or_default();
            let what = said.trim().trim_start_matches("ringmark: ");
            return Err(Failure::new(
                Code::of_exit(status.code()),
                format!("the machine was not started: {what}"),
            ));
        }
        if begun.elapsed() > START_LIMIT {
            return Err(Failure::new(Code::Failed, "the machine did not answer at its socket"));
        }
        thread::sleep(POLL);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was waited for, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
