//! Arguments of `import`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use ringmark_care::import::Region;

use super::StoreArgs;
use crate::size::Bytes;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A file of raw memory: each byte at its guest-physical address.
    pub(crate) file: PathBuf,

    /// The machine's name in the image.
    #[arg(long, default_value = "imported")]
    pub(crate) name: String,

    /// A range of addresses that is memory, as `0+3G` or `0x100000000+1G`; may be given several times. By default the
    /// whole file.
    #[arg(long = "region", value_name = "START+SIZE")]
    pub(crate) regions: Vec<RegionArg>,

    /// Bytes of a page; by default those of this host.
    #[arg(long, value_name = "SIZE")]
    pub(crate) page_size: Option<Bytes>,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// A region as it is written: a start, decimal or hexadecimal or with a unit, and a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionArg(pub(crate) Region);

impl FromStr for RegionArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (start, length) =
            text.split_once('+').ok_or("write the first address and the size, as in 0x100000000+1G")?;
        let start = match start.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).map_err(|error| error.to_string())?,
            None => start.parse::<Bytes>()?.0,
        };
        Ok(Self(Region { start, length: length.parse::<Bytes>()?.0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        let region = |text: &str| text.parse::<RegionArg>().map(|region| (region.0.start, region.0.length));
        assert_eq!(region("0+3G"), Ok((0, 3 << 30)));
        assert_eq!(region("0x100000000+4096"), Ok((1 << 32, 4096)));
        assert_eq!(region("4G+1M"), Ok((1 << 32, 1 << 20)));
        for text in ["", "1G", "+", "0x+1", "0xg+1", "1+x", "-1+1"] {
            assert!(region(text).is_err(), "{text}");
        }
    }
}
