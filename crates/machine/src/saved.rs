//! What an image holds of a machine beside its memory.

use ringmark_guest::Config;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::cpu::Opaque;
use crate::devices::SerialSaved;
use crate::platform::{Hypervisor, PlatformSaved};

/// The name of the state part in an image.
pub(crate) const PART: &str = "machine";

/// The version of [`MachineSaved`]; zero is never valid.
const VERSION: u32 = 1;

/// A machine at a cut, its memory aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MachineSaved {
    version: u32,
    pub(crate) hypervisor: Hypervisor,
    /// `x86_64` and the like: the processor that the state is of.
    pub(crate) architecture: String,
    pub(crate) cpus: Vec<Opaque>,
    pub(crate) platform: PlatformSaved,
    pub(crate) serial: SerialSaved,
    /// Where a built-in guest keeps its certificates.
    pub(crate) mailbox: Option<u64>,
    /// XXH3 over the hashes of all pages at the cut, if it was audited.
    pub(crate) digest: Option<u64>,
    /// Why stand-alone bitmaps would cost this machine less than rings with a backup bitmap, if that was found.
    #[serde(default)]
    pub(crate) bitmaps_advised: Option<String>,
    /// Whether the guest of a migration stood still by its operator's wish; one of an image runs when it is restored.
    #[serde(default)]
    pub(crate) paused: bool,
}

/// The parts of a [`MachineSaved`].
pub(crate) struct Parts {
    pub(crate) hypervisor: Hypervisor,
    pub(crate) cpus: Vec<Opaque>,
    pub(crate) platform: PlatformSaved,
    pub(crate) serial: SerialSaved,
    pub(crate) guest: Option<Config>,
    pub(crate) digest: Option<u64>,
    pub(crate) bitmaps_advised: Option<String>,
}

impl MachineSaved {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            version: VERSION,
            hypervisor: parts.hypervisor,
            architecture: std::env::consts::ARCH.to_owned(),
            cpus: parts.cpus,
            platform: parts.platform,
            serial: parts.serial,
            mailbox: parts.guest.map(|config| config.mailbox),
            digest: parts.digest,
            bitmaps_advised: parts.bitmaps_advised,
            paused: false,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        codec::encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let saved: Self = codec::decode(bytes)?;
        match saved.version {
            VERSION => Ok(saved),
            other => Err(format!("it is of version {other}, and this program reads version {VERSION}")),
        }
    }
}
