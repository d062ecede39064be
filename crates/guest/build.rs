//! Compiles the bare-metal program (`payload/`) for the architecture that this crate is built for, with the compiler
//! and linker that build it.
//!
//! Two calls of rustc: this crate's library once more, then the program on top of it. Cargo's flags for the host
//! program are left out on purpose, but for the place of the standard library: the program is freestanding, linked at a
//! fixed address, and uses baseline instructions only.

use std::env::{self, VarError};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A bare-metal program.
struct Payload {
    /// The architecture, as Cargo names it.
    arch: &'static str,
    /// What the crate's source is told if there is one.
    cfg: &'static str,
    /// The linker's script.
    script: &'static str,
    /// The file made.
    file: &'static str,
    /// Whether that is a flat image, of the segments that the linker made, and not the linker's file itself.
    flat: bool,
}

const PAYLOADS: [Payload; 2] = [
    Payload {
        arch: "x86_64",
        cfg: "pvh_payload",
        script: "payload/x86_64/link.ld",
        file: "ringmark-guest.elf",
        flat: false,
    },
    Payload {
        arch: "aarch64",
        cfg: "arm64_payload",
        script: "payload/arm64/link.ld",
        file: "ringmark-guest.img",
        flat: true,
    },
];

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
    for payload in &PAYLOADS {
        println!("cargo::rustc-check-cfg=cfg({})", payload.cfg);
    }
    for path in ["build.rs", "src", "payload"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let variable = |name| env::var(name).unwrap_or_default();
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    let Some(payload) = PAYLOADS.iter().find(|payload| payload.arch == arch) else {
        return ExitCode::SUCCESS;
    };
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        return ExitCode::SUCCESS;
    }
    match build(payload) {
        Ok(()) => {
            println!("cargo::rustc-cfg={}", payload.cfg);
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("cargo::error=cannot build the bare-metal guest: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build(payload: &Payload) -> Result<(), String> {
    let out = PathBuf::from(required("OUT_DIR")?);
    let target = required("TARGET")?;
    let library = out.join("libringmark_guest.rlib");
    let program = out.join(if payload.flat { "linked" } else { payload.file });

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
    let script = Path::new(&required("CARGO_MANIFEST_DIR")?).join(payload.script);
    link.arg(joined("-Clink-arg=-Wl,-T,", &script));
    link.args(["payload/main.rs", "-o"]).arg(&program);
    run(link)?;
    if !payload.flat {
        return Ok(());
    }
    let failed = |error| format!("{}: {error}", program.display());
    let linked = fs::read(&program).map_err(failed)?;
    let image = flatten(&linked).ok_or_else(|| format!("{} is not as expected", program.display()))?;
    fs::write(out.join(payload.file), image).map_err(failed)
}

/// What the loadable segments of a 64-bit ELF file of this machine's byte order put into memory, from the first of them
/// on.
fn flatten(elf: &[u8]) -> Option<Vec<u8>> {
    let bytes = |at: usize, length: usize| elf.get(at..at.checked_add(length)?);
    let word = |at| usize::try_from(u64::from_le_bytes(bytes(at, 8)?.try_into().ok()?)).ok();
    let headers = word(32)?;
    let count = usize::from(u16::from_le_bytes(bytes(56, 2)?.try_into().ok()?));
    let mut segments = Vec::new();
    for header in (headers..).step_by(56).take(count) {
        let (kind, filled) = (bytes(header, 4)?, word(header + 32)?);
        // PT_LOAD; one without content only says that its memory is zero.
        if kind == [1, 0, 0, 0] && filled > 0 {
            segments.push((word(header + 24)?, bytes(word(header + 8)?, filled)?));
        }
    }
    segments.sort_by_key(|(address, _)| *address);
    let start = segments.first()?.0;
    let mut image = Vec::new();
    for (address, content) in segments {
        image.resize(address - start, 0);
        image.extend(content);
    }
    Some(image)
}

/// The compiler, without what Cargo passes to the crate itself.
fn rustc(target: &OsStr) -> Result<Command, String> {
    let mut rustc = Command::new(required("RUSTC")?);
    rustc.args(RUST_FLAGS).arg("--target").arg(target).args(sysroot());
    Ok(rustc)
}

/// Where the compiler is told to look for the target's standard library, if it is told.
fn sysroot() -> Option<String> {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut flags = flags.split('\u{1f}');
    let flag = flags.find(|flag| flag.starts_with("--sysroot"))?;
    let place = flag.strip_prefix("--sysroot=").or_else(|| flags.next())?;
    Some(format!("--sysroot={place}"))
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
