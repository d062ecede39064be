//! Installs what is missing.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::arch::Tool;
use super::shell;

/// Tools that fetch and unpack packages.
const PACKAGING: [&str; 2] = ["apt-get", "dpkg"];

/// Sees to it that every one of `tools` is there, installing what is missing.
pub(super) fn require(tools: &[Tool]) -> Result<()> {
    for tool in PACKAGING {
        if !is_there(tool) {
            bail!("{tool} is missing: the lab takes kernels and tools from Debian's packages");
        }
    }
    let missing: Vec<&str> =
        tools.iter().filter(|tool| !is_there(tool.file)).map(|tool| tool.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    println!("installing {packages}");
    let hint = || format!("cannot install {packages}; as root: apt-get install {packages}");
    shell::output(Command::new("apt-get").arg("update")).with_context(hint)?;
    shell::output(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "--no-install-recommends"])
            .args(&missing),
    )
    .with_context(hint)?;
    match tools.iter().find(|tool| !is_there(tool.file)) {
        Some(tool) => bail!("package {} is installed but {} is not there", tool.package, tool.file),
        None => Ok(()),
    }
}

/// Whether `file`, a command's name or an absolute path, is there.
fn is_there(file: &str) -> bool {
    if file.starts_with('/') {
        return Path::new(file).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(file).is_file())
}
