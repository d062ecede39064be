//! The audit of a cut.

use std::time::{Duration, Instant};

use ringmark_dirty::DirtyPages;
use ringmark_track::{Audit, AuditRate, Reports, Tracker};

use super::CheckpointError;
use crate::ram::Ram;

/// What an audit of a cut came to. It found no escape, or there is no checkpoint.
#[derive(Clone, Debug)]
pub struct AuditOutcome {
    /// How long it took, with the guest standing.
    pub elapsed: Duration,
    /// The share of memory that is watched until the next audited cut.
    pub rate: AuditRate,
    /// Unreported pages that were compared with what they were at the last audited cut.
    pub compared: u64,
    /// Bytes that were read and hashed.
    pub bytes: u64,
    /// Whether this was the first, which has nothing to compare with.
    pub baseline: bool,
    /// One number over all of memory, if all of it is watched.
    pub digest: Option<u64>,
}

/// Who audits one cut, if it is audited.
pub(super) struct Auditor<'a> {
    audit: &'a mut Option<Audit>,
    wanted: Option<(AuditRate, Reports)>,
}

impl<'a> Auditor<'a> {
    pub(super) fn new(rate: Option<AuditRate>, audit: &'a mut Option<Audit>, tracker: &mut Tracker) -> Self {
        Self { audit, wanted: rate.map(|rate| (rate, tracker.remember_reports())) }
    }

    /// Audits the sealed cut whose epoch has these `pages`; of one that is not audited, an audit that was begun takes note.
    pub(super) fn observe(
        self,
        ram: &Ram,
        pages: &DirtyPages,
    ) -> Result<Option<AuditOutcome>, CheckpointError> {
        let Some((rate, reports)) = self.wanted else {
            if let Some(audit) = self.audit {
                audit.pass(pages);
            }
            return Ok(None);
        };
        let begun = Instant::now();
        let (compared, bytes, baseline) = match self.audit.as_mut() {
            Some(audit) => {
                audit.set_rate(rate);
                let report = audit.observe(ram, pages)?;
                if !report.escapes.is_empty() {
                    return Err(CheckpointError::Escapes(report.escapes));
                }
                (report.compared, report.bytes, false)
            }
            None => {
                let audit = self.audit.insert(Audit::sample(ram.slots(), ram, rate)?.with_reports(reports));
                (0, audit.watched() * ram.layout().page_size().bytes(), true)
            }
        };
        let digest = self.audit.as_ref().and_then(Audit::digest);
        Ok(Some(AuditOutcome { elapsed: begun.elapsed(), rate, compared, bytes, baseline, digest }))
    }
}
