//! Arguments of `torture`.

use std::time::Duration;

use clap::Args;

use super::Hypervisor;

/// Arguments of `torture`.
#[derive(Debug, Args)]
pub(crate) struct TortureArgs {
    /// For how long; fractions are fine. The last iteration is finished.
    #[arg(long, value_name = "N", default_value = "1", value_parser = minutes)]
    pub(crate) minutes: Minutes,

    /// What determines every iteration's guests, memory, rings, operations and faults; by default another each time. How
    /// threads and signals interleave is not determined.
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,

    /// Whose guests; on the engine every known fault of a kernel is played.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) hypervisor: Hypervisor,

    /// Only this iteration of the seed, again and again until the time is over.
    #[arg(long, value_name = "I")]
    pub(crate) iteration: Option<u64>,
}

/// A positive number of minutes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Minutes(pub(crate) Duration);

fn minutes(text: &str) -> Result<Minutes, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match Duration::try_from_secs_f64(number * 60.0) {
        Ok(time) if !time.is_zero() => Ok(Minutes(time)),
        _ => Err("not a time that torture could take".to_owned()),
    }
}
