//! Where images go.

use std::path::Path;
use std::time::Duration;

use ringmark_image::Location;
use ringmark_object::Limits;
use rustix::fs::{statfs, statvfs};

use super::finding::Finding;
use crate::args::StoreArgs;
use crate::paths;

const MIB: u64 = 1 << 20;
/// Less is soon full: an image of a machine of the default size may take as much.
const LITTLE: u64 = 256 * MIB;

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const NFS: u64 = 0x6969;

/// The place of the default store, or of the one that `RINGMARK_STORE` names.
pub(super) fn examine() -> Finding {
    let what = "image store";
    let named = std::env::var_os("RINGMARK_STORE").filter(|name| !name.is_empty());
    let dir = match paths::store(&StoreArgs { store: named.map(Into::into) }) {
        Ok(Location::Directory(dir)) => dir,
        Ok(Location::Url(url)) => return reach(what, &url),
        Err(failure) => return Finding::caveat(what, failure.message, "name a store (`--store DIR`)"),
    };
    // It may not have been founded yet.
    let Some(place) = dir.ancestors().find(|place| place.exists()) else {
        return Finding::caveat(
            what,
            format!("{} is nowhere", dir.display()),
            "name a store (`--store DIR`)",
        );
    };
    judge(what, &dir, place)
}

/// Asks the object store once for the images of a store, which may not have been founded yet.
fn reach(what: &'static str, url: &str) -> Finding {
    let patience = Duration::from_secs(3);
    let limits = Limits { retries: patience, request: patience, ..Limits::default() };
    let asked = ringmark_object::open(url, limits).map_err(|error| error.to_string()).and_then(|backend| {
        backend.list("images/").map_err(|error| format!("{url} does not answer: {error}"))
    });
    match asked {
        Ok(_) => Finding::good(what, format!("{url} answers")),
        Err(found) => Finding::caveat(what, found, "look at its address and credentials in the environment"),
    }
}

fn judge(what: &'static str, dir: &Path, place: &Path) -> Finding {
    let (Ok(volume), Ok(kind)) = (statvfs(place), statfs(place)) else {
        let found = format!("{} cannot be looked at", place.display());
        return Finding::caveat(what, found, "name another store (`--store DIR`)");
    };
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    // The numbers have 32 bits, and some of them come sign-extended.
    let magic = kind.f_type.cast_unsigned() & u64::from(u32::MAX);
    let found = format!("{} on {}, {} MiB free", dir.display(), name_of(magic), free / MIB);
    match magic {
        TMPFS | RAMFS => {
            Finding::caveat(what, found, "images are gone with the next start: use a disk (`--store DIR`)")
        }
        NFS => {
            Finding::caveat(what, found, "locks of writers may not hold between hosts: use one host's disk")
        }
        _ if free < LITTLE => Finding::caveat(what, found, "make room, or use another disk (`--store DIR`)"),
        _ => Finding::good(what, found),
    }
}

fn name_of(magic: u64) -> String {
    let known = match magic {
        TMPFS => "tmpfs",
        RAMFS => "ramfs",
        NFS => "nfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0xf2f5_2010 => "f2fs",
        0x2fc1_2fc1 => "zfs",
        0x794c_7630 => "overlayfs",
        other => return format!("a file system of type {other:#x}"),
    };
    known.to_owned()
}
