//! What an init does: file systems, modules, and the end.

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

/// Test programs of the initrd, run in the order of their names.
pub(crate) const PROGRAMS: &str = "/tests";
/// Modules of the initrd, loaded in the order of their names.
const MODULES: &str = "/modules";
/// `MODULE_INIT_COMPRESSED_FILE`.
const COMPRESSED: i32 = 4;
/// Where the kernel's policy on transparent huge pages is set.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Mounts what the cases look at and loads KVM.
pub(crate) fn bring_up() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(target).with_context(|| format!("cannot create {target}"))?;
        mount(kind, target, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {target}"))?;
    }
    let mut modules: Vec<PathBuf> = match fs::read_dir(MODULES) {
        Ok(entries) => { entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>() }
            .with_context(|| format!("cannot read {MODULES}"))?,
        Err(_) => Vec::new(),
    };
    modules.sort();
    for module in modules {
        let file = File::open(&module).with_context(|| format!("cannot open {}", module.display()))?;
        let flags = if module.extension().is_some_and(|suffix| suffix == "ko") { 0 } else { COMPRESSED };
        finit_module(&file, c"", flags).with_context(|| format!("cannot load {}", module.display()))?;
    }
    fs::create_dir_all("/tmp").context("cannot create /tmp")?;
    // A kernel without huge pages has no such file, and the cases about them will say so.
    let _ = fs::write(HUGE_PAGES, "madvise");
    Ok(())
}

/// Ends the machine. It is told not to start again, so a restart is its end on every board.
pub(crate) fn end() {
    // The console sends what it holds.
    thread::sleep(Duration::from_millis(200));
    if let Err(error) = reboot(RebootCommand::Restart) {
        println!("the machine cannot be ended: {error}");
    }
}
