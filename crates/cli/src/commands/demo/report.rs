//! What a demonstration came to.

use std::collections::BTreeMap;

use indicatif::{BinaryBytes, HumanCount};
use ringmark_control::{CheckOutcome, Checkpoint, Status};
use serde::Serialize;

use crate::commands::checkpoint::short;
use crate::output;

/// One restored image.
#[derive(Debug, Serialize)]
pub(super) struct Restored {
    pub(super) image: String,
    /// What the guest found in its own pages, after it had written on.
    pub(super) guest_check: CheckOutcome,
    /// What the monitor found in the guest's memory.
    pub(super) memory_check: CheckOutcome,
    /// Whether the guest wrote on after the restore.
    pub(super) went_on: bool,
}

#[derive(Debug, Serialize)]
struct Taken {
    image: String,
    pages: u64,
    by_source: BTreeMap<String, u64>,
    bytes: u64,
    pause_ms: f64,
    audit_ms: Option<f64>,
    total_ms: f64,
    escapes: Option<u64>,
}

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: u32,
    hypervisor: String,
    tracking: String,
    checkpoints: Vec<Taken>,
    restored: Vec<Restored>,
    pub(super) ok: bool,
}

impl Report {
    pub(super) fn new(status: &Status, checkpoints: Vec<Checkpoint>, restored: Vec<Restored>) -> Self {
        let whole = |r: &Restored| {
            r.went_on && r.guest_check == CheckOutcome::Ok && r.memory_check == CheckOutcome::Ok
        };
        let audited = checkpoints.iter().all(|taken| taken.escapes == Some(0));
        let ok = audited && restored.iter().all(whole);
        let checkpoints = checkpoints
            .into_iter()
            .map(|taken| Taken {
                image: taken.image,
                pages: taken.pages,
                by_source: taken.by_source,
                bytes: taken.bytes,
                pause_ms: taken.pause_ms,
                audit_ms: taken.audit_ms,
                total_ms: taken.total_ms,
                escapes: taken.escapes,
            })
            .collect();
        Self {
            schema: output::SCHEMA,
            hypervisor: status.hypervisor.clone(),
            tracking: status.tracking.clone(),
            checkpoints,
            restored,
            ok,
        }
    }

    pub(super) fn print(&self, as_json: bool) {
        if as_json {
            return output::json(self);
        }
        let count = |taken: &Taken, source: &str| {
            HumanCount(taken.by_source.get(source).copied().unwrap_or_default()).to_string()
        };
        let rows = self.checkpoints.iter().zip(1..).map(|(taken, number)| {
            vec![
                number.to_string(),
                short(&taken.image).to_owned(),
                HumanCount(taken.pages).to_string(),
                count(taken, "carried"),
                count(taken, "ring"),
                count(taken, "bitmap"),
                count(taken, "monitor"),
                BinaryBytes(taken.bytes).to_string(),
                format!("{:.2}", taken.pause_ms),
                taken.escapes.map_or_else(String::new, |escapes| escapes.to_string()),
            ]
        });
        let header =
            ["#", "image", "pages", "base", "ring", "bitmap", "monitor", "stored", "pause ms", "escapes"];
        output::line(output::table(&header, &[0, 2, 3, 4, 5, 6, 7, 8, 9], rows));
        let rows = self.restored.iter().map(|restored| {
            let wrote = if restored.went_on { "yes" } else { "no" };
            vec![
                short(&restored.image).to_owned(),
                wrote.to_owned(),
                word(restored.guest_check).to_owned(),
                word(restored.memory_check).to_owned(),
            ]
        });
        let header = ["restored image", "guest writes on", "guest's own check", "monitor's check"];
        output::line(output::table(&header, &[], rows));
    }
}

fn word(outcome: CheckOutcome) -> &'static str {
    match outcome {
        CheckOutcome::Ok => "ok",
        CheckOutcome::Failed => "FAILED",
        _ => "absent",
    }
}
