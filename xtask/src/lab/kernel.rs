//! Debian's newest cloud kernel of an architecture.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::Apt;
use super::arch::Arch;
use super::shell;

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) release: String,
    pub(super) image: PathBuf,
    pub(super) modules: Vec<PathBuf>,
}

/// The kernel that is unpacked under `home`, or else the newest one that the machine's package sources offer, which is
/// unpacked there. Removing `home` makes the next run look for a newer one.
pub(super) fn fetch(arch: Arch, home: &Path) -> Result<Kernel> {
    let unpacked = home.join("unpacked");
    if !unpacked.exists() {
        download(arch, home, &unpacked).context("no kernel for the lab")?;
    }
    open(arch, &unpacked)
}

fn open(arch: Arch, unpacked: &Path) -> Result<Kernel> {
    let boot = unpacked.join("boot");
    let release = names(&boot)?
        .iter()
        .find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .with_context(|| format!("no kernel in {}", boot.display()))?;
    let tree = unpacked.join("lib/modules").join(&release).join("kernel");
    let modules = arch.modules().iter().map(|name| {
        find(&tree, &format!("{name}.ko"))?
            .with_context(|| format!("the kernel's package has no module {name}"))
    });
    Ok(Kernel {
        image: boot.join(format!("vmlinuz-{release}")),
        modules: modules.collect::<Result<_>>()?,
        release,
    })
}

fn download(arch: Arch, home: &Path, unpacked: &Path) -> Result<()> {
    println!("looking for the newest {} kernel", arch.debian());
    let apt = Apt::new(arch, &home.join("apt"))?;
    let wanted = format!("^linux-image-[0-9].*-cloud-{}(-unsigned)?$", arch.debian());
    let found = shell::output(apt.command("apt-cache").args(["search", "--names-only", &wanted]))?;
    let package = newest(found.lines().filter_map(|line| line.split(' ').next()), arch.oldest())
        .with_context(|| {
            let (major, minor) = arch.oldest();
            format!(
                "the package sources offer no {} cloud kernel since {major}.{minor}: add the distribution's backports",
                arch.debian()
            )
        })?;
    println!("downloading {package}");
    apt.unpack(package, unpacked)
}

/// The package of the newest kernel that is no older than `oldest`. Of a signed and an unsigned package of one release
/// either will do, since nothing here checks signatures of kernels.
fn newest<'p>(packages: impl Iterator<Item = &'p str>, oldest: (u32, u32)) -> Option<&'p str> {
    packages
        .filter_map(|package| Some((release(package)?, package)))
        .filter(|(release, _)| (release[0], release[1]) >= oldest)
        .max()
        .map(|(_, package)| package)
}

/// Major, minor, patch and build of `linux-image-6.12.117+deb12-cloud-arm64` or `linux-image-6.1.0-56-cloud-amd64`.
fn release(package: &str) -> Option<[u32; 4]> {
    let rest = package.strip_prefix("linux-image-")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let mut next = || numbers.next()?.parse().ok();
    Some([next()?, next()?, next().unwrap_or(0), next().unwrap_or(0)])
}

fn names(directory: &Path) -> Result<Vec<String>> {
    fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// The file below `directory` whose name is `name`, compressed or not.
fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if entry
            .file_name()
            .to_string_lossy()
            .strip_prefix(name)
            .is_some_and(|suffix| matches!(suffix, "" | ".xz" | ".zst"))
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        let packages = [
            "linux-image-6.1.0-56-cloud-arm64",
            "linux-image-6.12.99+deb12-cloud-arm64",
            "linux-image-6.12.117+deb12-cloud-arm64-unsigned",
            "linux-image-6.9.12+bpo-cloud-arm64",
            "linux-image-cloud-arm64",
        ];
        assert_eq!(newest(packages.into_iter(), (6, 4)), Some(packages[2]));
        assert_eq!(newest(packages[..1].iter().copied(), (6, 4)), None, "too old");
        assert_eq!(newest(packages[..1].iter().copied(), (6, 1)), Some(packages[0]));
    }
}
