//! The architectures of the lab, as data.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;

/// An architecture whose mainline KVM the lab runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// arm64: rings with acquire and release, the backup bitmap, VGICv3 and ITS.
    Arm64,
    /// x86-64: rings on nested SVM.
    X86,
}

/// A tool and where it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// A file that is there if the package is: a command's name, or an absolute path.
    pub(crate) file: &'static str,
    /// Debian's package.
    pub(crate) package: &'static str,
}

/// A package whose tests run in the lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tested {
    pub(crate) package: &'static str,
    /// Which of its test programs; all, unless they are named.
    targets: Option<&'static [&'static str]>,
    /// Features of the package that they are built with.
    pub(crate) features: &'static [&'static str],
}

impl Tested {
    /// Whether the test program of this target is wanted.
    pub(crate) fn wants(self, target: &str) -> bool {
        self.targets.is_none_or(|targets| targets.contains(&target))
    }
}

impl Arch {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86 => "x86",
        }
    }

    /// The name of its reports' target.
    pub(crate) const fn target_name(self) -> &'static str {
        match self {
            Self::Arm64 => "lab-arm64",
            Self::X86 => "lab-x86",
        }
    }

    /// Debian's name.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86 => "amd64",
        }
    }

    /// Rust's name.
    pub(crate) const fn triple(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64-unknown-linux-gnu",
            Self::X86 => "x86_64-unknown-linux-gnu",
        }
    }

    /// Whether this machine is one.
    pub(crate) fn is_host(self) -> bool {
        std::env::consts::ARCH == self.triple().split('-').next().unwrap_or_default()
    }

    /// The linker that makes programs for it on a machine that is none.
    pub(crate) const fn cross_linker(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64-linux-gnu-gcc",
            Self::X86 => "x86_64-linux-gnu-gcc",
        }
    }

    /// What must be installed to emulate it, and to build for it if this machine is none.
    pub(crate) fn tools(self) -> Vec<Tool> {
        let (emulator, cross) = match self {
            Self::Arm64 => (
                Tool { file: "qemu-system-aarch64", package: "qemu-system-arm" },
                [
                    Tool { file: "aarch64-linux-gnu-gcc", package: "gcc-aarch64-linux-gnu" },
                    Tool { file: "/usr/aarch64-linux-gnu/lib/libc.a", package: "libc6-dev-arm64-cross" },
                ],
            ),
            Self::X86 => (
                Tool { file: "qemu-system-x86_64", package: "qemu-system-x86" },
                [
                    Tool { file: "x86_64-linux-gnu-gcc", package: "gcc-x86-64-linux-gnu" },
                    Tool { file: "/usr/x86_64-linux-gnu/lib/libc.a", package: "libc6-dev-amd64-cross" },
                ],
            ),
        };
        let mut tools = vec![emulator];
        if !self.is_host() {
            tools.extend(cross);
        }
        tools
    }

    /// The oldest kernel that has what the lab is for.
    pub(crate) const fn oldest(self) -> (u32, u32) {
        match self {
            // The backup bitmap.
            Self::Arm64 => (6, 4),
            // Rings with acquire and release.
            Self::X86 => (6, 1),
        }
    }

    /// Modules that make up KVM, each after those it needs; none where it is built in.
    pub(crate) const fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Arm64 => &[],
            Self::X86 => &["irqbypass", "kvm", "kvm-amd"],
        }
    }

    /// Tests that run in the lab beside the suite: those that no other machine here can run.
    pub(crate) const fn tested(self) -> &'static [Tested] {
        match self {
            Self::Arm64 => &[
                Tested { package: "ringmark-kvm", targets: None, features: &[] },
                Tested { package: "ringmark-probe", targets: None, features: &[] },
                Tested { package: "ringmark-guest", targets: Some(&["arm64"]), features: &[] },
                Tested {
                    package: "ringmark-machine",
                    targets: Some(&["arm64"]),
                    // With the order of tables and bitmap reversed on purpose, too.
                    features: &["mutants"],
                },
            ],
            Self::X86 => &[
                Tested { package: "ringmark-kvm", targets: None, features: &[] },
                Tested { package: "ringmark-probe", targets: None, features: &[] },
            ],
        }
    }

    /// The emulator, with a machine whose processor can virtualise. `environment` is that of the first program.
    pub(crate) fn emulator(self, kernel: &Path, initrd: &Path, environment: &[(&str, String)]) -> Command {
        let (program, machine, cpu, memory, console) = match self {
            Self::Arm64 => (
                "qemu-system-aarch64",
                "virt,virtualization=on,gic-version=3",
                "cortex-a57",
                "1024",
                "ttyAMA0",
            ),
            Self::X86 => ("qemu-system-x86_64", "q35", "max", "2048", "ttyS0"),
        };
        let mut command = Command::new(program);
        command.args(["-M", machine, "-cpu", cpu, "-m", memory, "-smp", "1", "-accel", "tcg"]);
        command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        // The console is for the protocol: of the kernel's own messages only the fatal ones.
        let mut line = format!("console={console} panic=-1 quiet loglevel=1");
        for (name, value) in environment {
            line += &format!(" {name}={value}");
        }
        command.args(["-append", &line]);
        command
    }
}
