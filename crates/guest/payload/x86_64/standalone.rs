//! Without a monitor: the program makes its own mailbox, in the largest range of RAM behind itself.

use core::fmt;

use ringmark_guest::{BootLine, Config, ConfigError, Control, Memory, StartInfo};

use crate::physical::Physical;

const PAGE_SIZE: u64 = 4096;

unsafe extern "C" {
    /// Set by the linker script: the end of this program in memory.
    static image_end: u8;
}

/// Lays out and clears the regions that `boot` asks for, and gives the command to run.
pub(crate) fn prepare(memory: &mut Physical, info: &StartInfo, boot: &BootLine) -> Result<Config, Error> {
    let hot = boot.hot.ok_or(Error::NothingToDo)?;
    let floor = (&raw const image_end).addr() as u64;
    let Ok(ram) = info.largest_ram(memory, floor);
    let mailbox = ram.start.next_multiple_of(PAGE_SIZE);
    let wanted = Config {
        mailbox,
        page_size: PAGE_SIZE,
        hot: 0,
        pages: hot / PAGE_SIZE,
        ledger: 0,
        writers: 1,
        pattern: boot.pattern,
        pace: boot.pace,
        seed: boot.seed,
    };
    let config = wanted.place(mailbox + wanted.mailbox_bytes(), ram.end).map_err(Error::Config)?;
    for gpa in (config.mailbox..config.hot + config.hot_bytes()).step_by(8) {
        let Ok(()) = memory.store(gpa, 0);
    }
    let Ok(()) = config.publish(memory, Control::RUN);
    Ok(config)
}

pub(crate) enum Error {
    NothingToDo,
    Config(ConfigError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingToDo => f.write_str(BootLine::USAGE),
            Self::Config(error) => error.fmt(f),
        }
    }
}
