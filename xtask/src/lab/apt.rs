//! Packages of another architecture, or newer than what is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::arch::Arch;
use super::shell;

/// apt with lists of its own in a directory of its own: it asks the machine's package sources for another architecture and leaves the machine's
/// own state as it is.
#[derive(Debug)]
pub(super) struct Apt {
    home: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// With fresh lists, kept in `home`.
    pub(super) fn new(arch: Arch, home: &Path) -> Result<Self> {
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(directory))?;
        }
        let status = home.join("status");
        fs::write(&status, "")?;
        let debian = arch.debian();
        let options = vec![
            format!("APT::Architecture={debian}"),
            format!("APT::Architectures={debian}"),
            format!("Dir::State::Lists={}", home.join("lists").display()),
            format!("Dir::State::status={}", status.display()),
            format!("Dir::Cache={}", home.join("cache").display()),
            // Downloads go where this user may write, not where apt's own may.
            "APT::Sandbox::User=".into(),
            "Acquire::Languages=none".into(),
        ];
        let apt = Self { home: home.to_owned(), options };
        shell::output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// A command of apt's.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    /// Downloads `package` and unpacks it to `unpacked`, which is there only when it is whole.
    pub(super) fn unpack(&self, package: &str, unpacked: &Path) -> Result<()> {
        let (packages, partial) = (self.home.join("packages"), self.home.join("partial"));
        for directory in [&packages, &partial] {
            if directory.exists() {
                fs::remove_dir_all(directory)?;
            }
            fs::create_dir_all(directory)?;
        }
        shell::output(self.command("apt-get").arg("download").arg(package).current_dir(&packages))?;
        let file = fs::read_dir(&packages)?.next();
        let file = file.with_context(|| format!("apt-get download left no package {package}"))??.path();
        shell::output(Command::new("dpkg").arg("-x").arg(file).arg(&partial))?;
        fs::rename(&partial, unpacked)?;
        fs::remove_dir_all(&packages)?;
        Ok(())
    }
}
