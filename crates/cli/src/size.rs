//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, written as `64M`, `1G`, `512K` or plainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
            "" => 0,
            "K" | "k" => 10,
            "M" | "m" => 20,
            "G" | "g" => 30,
            "T" | "t" => 40,
            _ => return Err(format!("`{unit}` is no unit; use K, M, G or T, as in 256M")),
        };
        let number: u64 = number.parse().map_err(|_| "write a number and a unit, as in 256M".to_owned())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| "more than 64 bits of bytes".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        indicatif::BinaryBytes(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [("256M", 256 << 20), ("4GiB", 4 << 30), ("1024", 1024), ("8k", 8192)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "M", "12X", "-1", "99999999999T", "1.5G"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
