//! What the bare-metal program and whoever starts it agree on: the command line, and how a vCPU ends.

use core::fmt;

use crate::pattern::Pattern;

/// The I/O port to which a vCPU of the bare-metal program writes a byte when it has ended for good: zero when it was told
/// to stop, one when it could not go on. QEMU's `isa-debug-exit` has the same.
pub const HALT_PORT: u16 = 0xf4;

/// What the command line says.
///
/// | word | meaning |
/// |---|---|
/// | `ringmark.mailbox=0x10000` | a monitor has published a [`Config`](crate::Config) there; nothing else counts |
/// | `hot=16M` | without a monitor: size of the hot region, in bytes or with K, M or G |
/// | `pattern=zipf` | without a monitor: a [`Pattern`] |
/// | `pace=0` | without a monitor: idle steps after each write |
/// | `seed=1` | without a monitor: the seed |
/// | `check=1000000` | without a monitor: page writes between two checks |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootLine {
    /// Address of the mailbox; without one the program makes its own.
    pub mailbox: Option<u64>,
    /// Bytes of the hot region.
    pub hot: Option<u64>,
    /// The pattern.
    pub pattern: Pattern,
    /// Idle steps after each write.
    pub pace: u64,
    /// The seed.
    pub seed: u64,
    /// Page writes between two checks.
    pub check: u64,
}

impl BootLine {
    /// What the program prints when the command line gives it nothing to do.
    pub const USAGE: &str = "command line: ringmark.mailbox=ADDRESS, or \
        hot=16M [pattern=sequential|uniform|zipf|bursty|rewrite] [pace=0] [seed=1] [check=1000000]";

    /// Reads a command line, words separated by spaces.
    ///
    /// # Errors
    ///
    /// The first word that is unknown or has an impossible value.
    pub fn parse(line: &str) -> Result<Self, UnknownWord<'_>> {
        let mut boot = Self {
            mailbox: None,
            hot: None,
            pattern: Pattern::Sequential,
            pace: 0,
            seed: 1,
            check: 1_000_000,
        };
        for word in line.split_ascii_whitespace() {
            boot.word(word).ok_or(UnknownWord(word))?;
        }
        Ok(boot)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=')?;
        match name {
            "ringmark.mailbox" => self.mailbox = Some(number(value)?),
            "hot" => self.hot = Some(number(value)?),
            "pattern" => self.pattern = value.parse().ok()?,
            "pace" => self.pace = number(value)?,
            "seed" => self.seed = number(value)?,
            "check" => self.check = number(value).filter(|&writes| writes > 0)?,
            _ => return None,
        }
        Some(())
    }
}

/// A number, hexadecimal after `0x`, else decimal with an optional K, M or G for powers of 1024.
fn number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    let suffixes = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)];
    let with_suffix =
        suffixes.into_iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)));
    let (digits, unit) = with_suffix.unwrap_or((text, 1));
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A word of the command line that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord<'a>(pub &'a str);

impl fmt::Display for UnknownWord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot understand '{}'", self.0)
    }
}

impl core::error::Error for UnknownWord<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_word() {
        let line = " ringmark.mailbox=0x10000 hot=16M  pattern=bursty:4:9 pace=3 seed=0xff check=7\n";
        let pattern = Pattern::Bursty { burst: 4, idle: 9 };
        let hot = Some(16 << 20);
        let expected = BootLine { mailbox: Some(0x10000), hot, pattern, pace: 3, seed: 255, check: 7 };
        assert_eq!(BootLine::parse(line), Ok(expected));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for word in ["hot", "hot=", "hot=1T", "hot=-1", "hot=18446744073709551615K", "colour=red", "check=0"]
        {
            assert_eq!(BootLine::parse(word), Err(UnknownWord(word)));
        }
        assert_eq!(BootLine::parse("hot=1M pattern=none"), Err(UnknownWord("pattern=none")));
    }
}
