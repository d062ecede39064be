//! `ringmark predict`: what sending a machine away would come to, before anything is moved.

use indicatif::BinaryBytes;
use ringmark_control::{PredictRequest, Predicted};
use ringmark_migrate::predict::Outlook;

use crate::args::PredictArgs;
use crate::failure::Result;
use crate::progress::Spinner;
use crate::service::milliseconds;
use crate::{forecast, output, paths, remote};

/// Has the machine watched, and says what its migration would come to.
pub(crate) fn run(args: &PredictArgs, as_json: bool, quiet: bool) -> Result {
    let client = remote::connect(&paths::socket(&args.vm)?, &args.vm)?;
    let request = PredictRequest {
        measure_ms: Some(milliseconds(args.watch)),
        bandwidth: args.bandwidth.map(|bytes| bytes.0),
        round_trip_ms: args.round_trip.map(milliseconds),
        max_downtime_ms: args.max_downtime.map(milliseconds),
        max_total_ms: args.max_total.map(milliseconds),
        prefer: args.prefer.into(),
        ..PredictRequest::default()
    };
    let spinner = Spinner::new(quiet || as_json, format!("watching what {} writes", args.vm));
    let predicted = client.predict(&request);
    spinner.finish();
    let predicted = predicted.map_err(|error| remote::failure(&error))?;
    if as_json {
        output::json(&predicted);
    } else {
        print(&predicted);
    }
    Ok(())
}

fn print(predicted: &Predicted) {
    let bandwidth = rate(predicted.bandwidth);
    let assumed = if predicted.bandwidth_assumed { " (assumed; --bandwidth says it)" } else { "" };
    output::line(format_args!(
        "{}: a migration over a link of {bandwidth}{assumed}, by what the guest wrote in {:.1} s",
        predicted.name,
        predicted.measured_ms / 1e3,
    ));
    forecast::print(&predicted.prediction, None);
    if predicted.rate < predicted.bandwidth * BOUND {
        output::line(format_args!(
            "pages are sent as fast as this processor reads and encodes them, at {}: a faster link would not help",
            rate(predicted.rate),
        ));
    }
    output::line(verdict(predicted));
}

/// Below this share of the bandwidth something else bounds the rate.
const BOUND: f64 = 0.9;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people; a cast saturates")]
fn rate(bytes: f64) -> String {
    format!("{}/s", BinaryBytes(bytes as u64))
}

/// Whether the goal can be met, and what it would take.
fn verdict(predicted: &Predicted) -> String {
    let prediction = &predicted.prediction;
    let total =
        predicted.max_total_ms.map(|ms| format!(" and {:.1} s over all", ms / 1e3)).unwrap_or_default();
    let aim = format!("a downtime of {} ms{total}", predicted.max_downtime_ms);
    let said = match predicted.goal {
        Outlook::Met => "can be met",
        Outlook::Open => "may be met",
        Outlook::Missed => "cannot be met while the guest is left alone",
    };
    let mut lines = format!("{aim} {said}: {:.0} of 100 such migrations do.", prediction.chance * 100.0);
    let advice = forecast::advice(prediction);
    if !advice.is_empty() {
        lines = format!("{lines} {advice}");
    }
    if predicted.goal != Outlook::Met && predicted.throttle {
        lines += " `ringmark migrate` slows the guest down as far as that helps, which the times above reckon with; with \
                  --prefer guest it does not, and gives up instead.";
    }
    lines
}
