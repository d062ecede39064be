//! Page faults in user space, and scans of page tables.

use ringmark_uffd::{Check, HowOpened, OpenError, probe};

use super::finding::Finding;

pub(super) fn examine() -> Vec<Finding> {
    let found = probe();
    let names: Vec<&str> = found.offered.names().map(|(name, _)| name).collect();
    let features = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    vec![
        descriptor(&found.opened),
        Finding::good("userfaultfd features", features),
        checked(
            "missing pages",
            &found.missing,
            "lazy restore is not possible; restore the whole image first",
        ),
        checked("page-map scan", &found.written, "`--check-with uffd` is not possible; use `--audit`"),
        checked(
            "page-map scan of lost entries",
            &found.vanished,
            "do not rely on `--check-with uffd`; use `--audit`",
        ),
    ]
}

fn descriptor(opened: &Result<HowOpened, OpenError>) -> Finding {
    let what = "userfaultfd";
    match opened {
        Ok(HowOpened::Syscall) => Finding::good(what, "by the system call, faults of the kernel too"),
        Ok(HowOpened::Device) => Finding::good(what, "by /dev/userfaultfd, faults of the kernel too"),
        Err(error) => {
            let remedy = "lazy restore needs it: grant access to /dev/userfaultfd, or set vm.unprivileged_userfaultfd=1";
            Finding::caveat(what, error.to_string(), remedy)
        }
    }
}

fn checked(what: &'static str, check: &Check, remedy: &'static str) -> Finding {
    match check {
        Check::Works => Finding::good(what, "works"),
        Check::Absent(why) => Finding::caveat(what, format!("absent: {why}"), remedy),
        Check::Wrong(why) => Finding::caveat(what, format!("wrong: {why}"), remedy),
    }
}
