//! A compiler with the standard library of the lab's architecture.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::Apt;
use super::arch::{Arch, Tool};
use super::{directory, shell, tools};

/// Debian's compiler, which is as new as the distribution's web browsers need.
const DEBIAN_RUSTC: Tool = Tool { file: "/usr/bin/rustc", package: "rustc-web" };
/// Its standard library, a package per architecture.
const DEBIAN_LIBRARY: &str = "libstd-rust-web-dev";

/// A compiler that can build for the lab.
#[derive(Debug)]
pub(super) enum Toolchain {
    /// The one in use has the standard library (`rustup target add` installs it).
    InUse,
    /// Debian's, with a standard library that was unpacked here.
    Debian {
        /// Where, as the compiler takes it.
        sysroot: PathBuf,
    },
}

impl Toolchain {
    /// The compiler in use if it will do; else Debian's, which is installed if it is missing.
    pub(super) fn find(arch: Arch) -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        if has_library(&rustc, arch)? {
            return Ok(Self::InUse);
        }
        let hint = || {
            format!("no standard library of Rust for {0}; `rustup target add {0}` installs it", arch.triple())
        };
        tools::require(&[DEBIAN_RUSTC]).with_context(hint)?;
        let home = directory().join(arch.name());
        let unpacked = home.join("standard-library");
        if !unpacked.exists() {
            println!("downloading {DEBIAN_LIBRARY} for {}", arch.debian());
            Apt::new(arch, &home.join("apt"))?.unpack(DEBIAN_LIBRARY, &unpacked).with_context(hint)?;
        }
        Ok(Self::Debian { sysroot: unpacked.join("usr") })
    }

    /// The compiler, if it is not the one in use.
    pub(super) fn rustc(&self) -> Option<&Path> {
        match self {
            Self::InUse => None,
            Self::Debian { .. } => Some(Path::new(DEBIAN_RUSTC.file)),
        }
    }

    /// Flags for a static program, as `CARGO_ENCODED_RUSTFLAGS` takes them.
    pub(super) fn flags(&self) -> OsString {
        let mut flags = OsString::from("-Ctarget-feature=+crt-static");
        if let Self::Debian { sysroot } = self {
            flags.push("\u{1f}--sysroot\u{1f}");
            flags.push(sysroot);
        }
        flags
    }
}

fn has_library(rustc: &OsString, arch: Arch) -> Result<bool> {
    let mut command = Command::new(rustc);
    command.args(["--target", arch.triple(), "--print", "target-libdir"]);
    Ok(Path::new(shell::output(&mut command)?.trim()).is_dir())
}
