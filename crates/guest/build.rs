//! Compiles the bare-metal program (`payload/`) for x86-64 with the compiler and linker that build this crate.
//!
//! Two calls of rustc: this crate's library once more, then the program on top of it. Cargo's flags for the host
//! program are left out on purpose: the program is freestanding, linked at a fixed address, and uses baseline
//! instructions only.

use std::env::{self, VarError};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const RUST_FLAGS: [&str; 10] = [
    "--edition=2024",
    "-Cpanic=abort",
    "-Copt-level=3",
    "-Ccodegen-units=1",
    "-Crelocation-model=static",
    "-Ccode-model=small",
    "-Cforce-unwind-tables=no",
    "-Cdebuginfo=0",
    "-Cembed-bitcode=yes",
    "--emit=link",
];

const LINK_FLAGS: [&str; 8] = [
    "-nostdlib",
    "-nostartfiles",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,--gc-sections",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
];

fn main() -> ExitCode {
    println!("cargo::rustc-check-cfg=cfg(pvh_payload)");
    for path in ["build.rs", "src", "payload"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_ARCH") != "x86_64" || variable("CARGO_CFG_TARGET_OS") != "linux" {
        return ExitCode::SUCCESS;
    }
    match build() {
        Ok(()) => {
            println!("cargo::rustc-cfg=pvh_payload");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("cargo::error=cannot build the bare-metal guest: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(required("OUT_DIR")?);
    let target = required("TARGET")?;
    let library = out.join("libringmark_guest.rlib");
    let program = out.join("ringmark-guest.elf");

    let mut compile = rustc(&target)?;
    compile.args(["--crate-name=ringmark_guest", "--crate-type=rlib", "src/lib.rs", "-o"]).arg(&library);
    run(compile)?;

    let mut link = rustc(&target)?;
    link.args(["--crate-name=ringmark_payload", "--crate-type=bin", "-Clto=fat", "-Cstrip=symbols"]);
    link.arg("--extern").arg(joined("ringmark_guest=", &library));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        link.arg(joined("-Clinker=", Path::new(&linker)));
    }
    if target.to_string_lossy().contains("musl") {
        link.arg("-Clink-self-contained=no");
    }
    for flag in LINK_FLAGS {
        link.arg(format!("-Clink-arg={flag}"));
    }
    let script = Path::new(&required("CARGO_MANIFEST_DIR")?).join("payload/link.ld");
    link.arg(joined("-Clink-arg=-Wl,-T,", &script));
    link.args(["payload/main.rs", "-o"]).arg(&program);
    run(link)
}

/// The compiler, without what Cargo passes to the crate itself.
fn rustc(target: &OsStr) -> Result<Command, String> {
    let mut rustc = Command::new(required("RUSTC")?);
    rustc.args(RUST_FLAGS).arg("--target").arg(target);
    Ok(rustc)
}

fn run(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?} failed with {}; its messages are above", output.status))
}

fn required(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name}: {}; run this through Cargo", VarError::NotPresent))
}

fn joined(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}
