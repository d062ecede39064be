//! What a migration comes to, for people.

use indicatif::{BinaryBytes, HumanCount};
use ringmark_control::MigrateProgress;
use ringmark_migrate::report::{MemoryBy, Report, Round};

use crate::{forecast, output};

/// One line a round, on stderr.
pub(super) fn progress(at: &MigrateProgress) {
    let Some(round) = at.report.rounds.last() else { return };
    let ram = &at.report.ram;
    let what = if at.stopped { "the last pages" } else { "pages" };
    let mut line = format!(
        "round {}: {} {what}, {} sent in {:.1} ms ({})",
        round.iteration,
        HumanCount(round.pages),
        BinaryBytes(round.bytes),
        round.elapsed,
        rate(round),
    );
    if !at.stopped {
        line += &format!(
            "; {} pages/s written; a stop now would take about {:.1} ms",
            HumanCount(ram.dirty_pages_rate),
            round.expected_downtime
        );
    }
    eprintln!("{line}");
}

fn rate(round: &Round) -> String {
    if round.elapsed <= 0.0 {
        return "at once".into();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate for people"
    )]
    let rate = (round.bytes as f64 / (round.elapsed / 1e3)) as u64;
    format!("{}/s", BinaryBytes(rate))
}

/// The outcome on stdout.
pub(super) fn print(vm: &str, to: &str, report: &Report) {
    let memory = match report.memory {
        MemoryBy::Copy => format!("{} sent", BinaryBytes(report.ram.transferred)),
        MemoryBy::Descriptor => "memory handed over by descriptor".into(),
    };
    output::line(format_args!(
        "{vm} runs at {to}: downtime {:.2} ms, {:.0} ms in all, {memory}, verified: {}",
        report.downtime, report.total_time, report.verified,
    ));
    if let Some(why) = &report.copied_because {
        output::line(format_args!("memory was copied: {why}"));
    }
    let parts = &report.downtime_breakdown;
    let rows = [
        ("stop the vCPUs", parts.kick),
        ("save their state", parts.save),
        ("last harvest", parts.harvest),
        ("last pages", parts.pages),
        ("audit", parts.audit),
        ("digest of all memory, here", parts.source_digest),
        ("on the wire", parts.transfer),
        ("compare digests, there", parts.digest),
        ("load the state, there", parts.load),
        ("resume, there", parts.resume),
    ];
    let rows = rows.into_iter().filter(|(_, ms)| *ms > 0.0);
    let rows = rows.map(|(what, ms)| vec![what.to_owned(), format!("{ms:.3}")]);
    output::line(output::table(&["downtime", "ms"], &[1], rows));
    if report.rounds.is_empty() {
        return;
    }
    let rows = report.rounds.iter().map(|round| {
        vec![
            round.iteration.to_string(),
            HumanCount(round.pages).to_string(),
            BinaryBytes(round.bytes).to_string(),
            format!("{:.1}", round.elapsed),
            rate(round),
        ]
    });
    output::line(output::table(&["round", "pages", "sent", "ms", "rate"], &[0, 1, 2, 3, 4], rows));
    if let Some(prediction) = &report.prediction {
        #[expect(clippy::cast_precision_loss, reason = "a few rounds")]
        let rounds = report.rounds.len() as f64;
        let outcome = forecast::Outcome { rounds, total_time: report.total_time, downtime: report.downtime };
        forecast::print(prediction, Some(&outcome));
    }
}
