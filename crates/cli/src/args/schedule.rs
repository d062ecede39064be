//! When checkpoints are taken by themselves, and which are kept.

use std::time::Duration;

use clap::{Args, ValueEnum};
use ringmark_care::keep::KeepPolicy;

/// What a checkpoint survives once it is reported as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// The end of this process and of the system: everything is on the disk, or with the service.
    #[default]
    Full,
    /// The end of this process, but perhaps not that of the system: nothing is synced.
    None,
}

/// A rolling history of a running machine.
#[derive(Clone, Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// What a checkpoint survives once it is reported as done.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) durability: Durability,

    /// Take a checkpoint this often, as in 1s, 500ms or 10m. Where checkpoints take longer, they follow one another at
    /// once, and the shortest interval that this guest and host sustain is said.
    #[arg(long, value_name = "INTERVAL", value_parser = interval)]
    pub(crate) checkpoint_every: Option<Duration>,

    /// Which images of this machine stay when others come, as in last=10,minutely=30,hourly=24. Without it, all.
    #[arg(long, value_name = "POLICY", requires = "checkpoint_every")]
    pub(crate) keep: Option<KeepPolicy>,
}

impl From<Durability> for ringmark_image::Durability {
    fn from(wish: Durability) -> Self {
        match wish {
            Durability::Full => Self::Full,
            Durability::None => Self::None,
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write 1s, 500ms or 10m"))?;
    if interval < Duration::from_millis(1) {
        return Err("the shortest interval is 1ms".into());
    }
    Ok(interval)
}
