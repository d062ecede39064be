//! `ringmark checkpoint`: asks a running machine for an image.

use indicatif::{BinaryBytes, HumanCount};
use ringmark_control::{Checkpoint, CheckpointRequest, Client, ClientError};

use crate::args::CheckpointArgs;
use crate::failure::Result;
use crate::progress::Pages;
use crate::{output, paths, remote};

/// Takes a checkpoint and says what it came to.
pub(crate) fn run(args: &CheckpointArgs, as_json: bool, quiet: bool) -> Result {
    let client = remote::connect(&paths::socket(&args.vm)?, &args.vm)?;
    let request = CheckpointRequest {
        full: args.full,
        audit: args.audit.map(|rate| rate.to_string()),
        ..Default::default()
    };
    let taken = take(&client, &request, quiet || as_json).map_err(|error| remote::failure(&error))?;
    if as_json {
        output::json(&taken);
    } else {
        print(&args.vm, &taken);
    }
    if args.audit.is_some() && taken.audit_baseline == Some(true) && !quiet {
        eprintln!(
            "ringmark: nothing to compare with yet: hashes of {} of memory were taken, and the next `ringmark checkpoint --audit {}` \
             compares with them",
            args.audit.map(|rate| rate.to_string()).unwrap_or_default(),
            args.vm,
        );
    }
    if !quiet {
        taken.advice.iter().for_each(|advice| eprintln!("ringmark: {}", advice.text));
    }
    Ok(())
}

/// Takes a checkpoint with a bar of progress.
pub(crate) fn take(
    client: &Client,
    request: &CheckpointRequest,
    silent: bool,
) -> std::result::Result<Checkpoint, ClientError> {
    let bar = Pages::new(silent);
    let taken = client.checkpoint(request, |at| bar.show(&at.phase.to_string(), at.pages, at.pages_total));
    bar.finish();
    taken
}

fn print(vm: &str, taken: &Checkpoint) {
    let parent = taken.parent.as_deref().map_or("a base".to_owned(), |id| format!("on {}", short(id)));
    output::line(format_args!(
        "{}: image {} of {vm}, {parent}: {} pages, {} stored; paused for {:.2} ms, durable after {:.0} ms; {}/s of pages, {}/s to \
         the store",
        taken.image,
        short(&taken.image),
        HumanCount(taken.pages),
        BinaryBytes(taken.bytes),
        taken.pause_ms,
        taken.total_ms,
        BinaryBytes(whole(taken.taken_bytes_per_s)),
        BinaryBytes(whole(taken.stored_bytes_per_s)),
    ));
    if let (Some(pages), Some(ms), Some(bytes)) = (taken.audit_pages, taken.audit_ms, taken.audit_bytes)
        && taken.audit_baseline == Some(false)
    {
        output::line(format_args!(
            "audit: {} unreported pages compared, no escape; {} hashed in {ms:.0} ms",
            HumanCount(pages),
            BinaryBytes(bytes),
        ));
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people; a cast saturates")]
fn whole(rate: f64) -> u64 {
    rate as u64
}

/// As much of an identity as people read.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
