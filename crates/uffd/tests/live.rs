//! Against this host's kernel; skipped, and saying so, where it has no userfaultfd.

#![allow(clippy::unwrap_used, reason = "a test ends where anything fails")]

use ringmark_uffd::{Check, probe};

#[test]
fn this_host_passes_its_probe() {
    let probe = probe();
    if let Err(error) = &probe.opened {
        eprintln!("SKIPPED this_host_passes_its_probe: {error}");
        return;
    }
    eprintln!("{probe:#?}");
    for (what, check) in
        [("missing", &probe.missing), ("written", &probe.written), ("vanished", &probe.vanished)]
    {
        match check {
            Check::Works => {}
            Check::Absent(why) => eprintln!("SKIPPED {what}: {why}"),
            Check::Wrong(why) => panic!("{what}: {why}"),
        }
    }
}
