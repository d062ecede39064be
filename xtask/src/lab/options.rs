//! What to run in a lab.

use std::num::NonZeroU32;

use clap::{Args, ValueEnum};
use ringmark_lab::{ONLY, REPEAT};

use super::arch::Arch;

/// Which labs, and what of them.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The lab kernel's architecture; of several, all kernels run at the same time, on a processor each.
    #[arg(value_enum, required = true, value_name = "ARCH")]
    arches: Vec<Arch>,
    /// Only cases and tests with NAME in their id or name, as the lab prints them; leaves the last report as it is.
    #[arg(long, value_name = "NAME", value_parser = name)]
    only: Option<String>,
    /// Do all of it this often in one boot; leaves the last report as it is if that is more than once.
    #[arg(long, value_name = "TIMES", default_value_t = NonZeroU32::MIN)]
    pub(super) repeat: NonZeroU32,
}

impl Options {
    /// The architectures, each once.
    pub(super) fn arches(&self) -> Vec<Arch> {
        let named = Arch::value_variants().iter().copied();
        named.filter(|arch| self.arches.contains(arch)).collect()
    }

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
    fn an_architecture_is_needed_and_counts_once() {
        assert!(parse(&[]).is_err());
        assert_eq!(parse(&["x86"]).expect("fine").arches(), [Arch::X86]);
        assert_eq!(parse(&["x86", "arm64", "x86"]).expect("fine").arches(), [Arch::Arm64, Arch::X86]);
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
