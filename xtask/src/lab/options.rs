//! What to run in a lab.

use std::num::NonZeroU32;

use clap::Args;
use ringmark_lab::{ONLY, REPEAT};

use super::arch::Arch;

/// Which lab, and what of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The lab kernel's architecture.
    #[arg(value_enum)]
    pub(super) arch: Arch,
    /// Only cases and tests with NAME in their id or name, as the lab prints them; leaves the last report as it is.
    #[arg(long, value_name = "NAME", value_parser = name)]
    only: Option<String>,
    /// Do all of it this often in one boot; leaves the last report as it is if that is more than once.
    #[arg(long, value_name = "TIMES", default_value_t = NonZeroU32::MIN)]
    pub(super) repeat: NonZeroU32,
}

impl Options {
    /// Whether a run answers for the whole lab.
    pub(super) fn is_whole(&self) -> bool {
        self.only.is_none() && self.repeat == NonZeroU32::MIN
    }

    /// The same for the program that runs in the lab.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let only = self.only.iter().map(|only| (ONLY, only.clone()));
        only.chain([(REPEAT, self.repeat.to_string())]).collect()
    }
}

/// Takes what can be a part of a case's or test's name; it has to fit a kernel's command line.
fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_:-".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err("names consist of letters, digits, `_`, `:` and `-`".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        Line::try_parse_from(["lab"].iter().chain(arguments)).map(|line| line.options)
    }

    #[test]
    fn only_all_of_it_at_once_is_the_whole() {
        assert!(parse(&["arm64"]).expect("fine").is_whole());
        assert!(!parse(&["arm64", "--only", "T37"]).expect("fine").is_whole());
        assert!(!parse(&["arm64", "--repeat", "2"]).expect("fine").is_whole());
    }

    #[test]
    fn what_a_command_line_would_take_apart_is_no_name() {
        let options = parse(&["x86", "--only", "kvm::a-b_c", "--repeat", "3"]).expect("fine");
        assert_eq!(options.environment(), [(ONLY, "kvm::a-b_c".into()), (REPEAT, "3".into())]);
        for bad in ["a b", "a\"b", "", "a=b"] {
            assert!(parse(&["x86", "--only", bad]).is_err(), "{bad}");
        }
        assert!(parse(&["x86", "--repeat", "0"]).is_err());
    }
}
