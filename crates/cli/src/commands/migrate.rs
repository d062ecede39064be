//! `ringmark migrate`: sends a running machine away, or decides what became of one.

mod report;

use std::path::Path;
use std::thread;

use ringmark_control::{Client, Decision, MemoryWish, MigrateRequest};
use ringmark_migrate::report::MemoryBy;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::{self, MigrateArgs};
use crate::failure::{Code, OrFail, Result};
use crate::service::milliseconds;
use crate::{link, output, paths, remote};

/// Sends the machine, and says what it came to.
pub(crate) fn run(args: &MigrateArgs, as_json: bool, quiet: bool) -> Result {
    let socket = paths::socket(&args.vm)?;
    let client = remote::connect(&socket, &args.vm)?;
    if let Some(decision) = args.decide {
        return decide(&client, args, decision, as_json);
    }
    let request = request(args)?;
    cancel_on_interrupt(&socket).or_fail(Code::Failed)?;
    let shown = |at: ringmark_control::MigrateProgress| {
        if !quiet {
            report::progress(&at);
        }
    };
    let done = client.migrate(&request, shown).map_err(|error| remote::failure(&error))?;
    let anew = done.report.memory == MemoryBy::Copy && !done.report.resumed;
    if args.resume && anew && !quiet {
        eprintln!("ringmark: the destination held nothing of it any more: all of memory was sent");
    }
    if as_json {
        output::json(&done);
    } else {
        report::print(&args.vm, &request.to, &done.report);
    }
    Ok(())
}

fn request(args: &MigrateArgs) -> Result<MigrateRequest> {
    let to = args.address.as_ref().map(link::anywhere).transpose()?;
    let to = to.map(|address| address.to_string()).unwrap_or_default();
    Ok(MigrateRequest {
        tls: link::tls_files(&args.link)?,
        insecure: args.link.insecure,
        memory: match args.memory {
            args::MemoryWish::Auto => MemoryWish::Auto,
            args::MemoryWish::Copy => MemoryWish::Copy,
            args::MemoryWish::Descriptor => MemoryWish::Descriptor,
        },
        max_downtime_ms: args.max_downtime.map(milliseconds),
        max_total_ms: args.max_total.map(milliseconds),
        prefer: args.prefer.into(),
        bandwidth: args.bandwidth.map(|bytes| bytes.0),
        streams: args.streams,
        resume: args.resume,
        verify_full: args.verify == args::Verify::Full,
        audit: args.audit.map(|rate| rate.to_string()),
        ..MigrateRequest::to(to)
    })
}

fn decide(client: &Client, args: &MigrateArgs, decision: args::Decision, as_json: bool) -> Result {
    let (decision, said) = match decision {
        args::Decision::Run => (Decision::Run, "runs here"),
        args::Decision::Discard => (Decision::Discard, "is given up here"),
    };
    let status = client.decide(decision).map_err(|error| remote::failure(&error))?;
    if as_json {
        output::json(&status);
    } else {
        output::line(format_args!("{}: the guest {said}", args.vm));
    }
    Ok(())
}

/// The first interrupt calls the migration off, and how it ended is still said; a second one does not wait for that.
fn cancel_on_interrupt(socket: &Path) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let socket = socket.to_owned();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for number in 0.. {
            if signals.forever().next().is_none() {
                return;
            }
            // The machine calls it off by itself once this process is gone.
            let told = Client::connect(&socket).ok().and_then(|client| client.cancel_migration().ok());
            if number > 0 || told.is_none() {
                std::process::exit(Code::Cancelled as i32);
            }
        }
    })?;
    Ok(())
}
