//! What a machine has to find at its destination, beside what every migration's offer says.

use ringmark_migrate::Offer;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::platform::{Hypervisor, Processor};

/// The version of [`Needs`]; zero is never valid.
const VERSION: u32 = 1;

/// What a machine needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Needs {
    version: u32,
    pub(super) hypervisor: Hypervisor,
    /// Interrupt translation services; `None` where there is no interrupt controller of this kind.
    pub(super) translators: Option<u32>,
    pub(super) processor: Processor,
    /// Why stand-alone bitmaps would cost it less, if that was found.
    #[serde(default)]
    pub(super) bitmaps_advised: Option<String>,
}

impl Needs {
    pub(crate) const fn new(
        hypervisor: Hypervisor,
        translators: Option<u32>,
        processor: Processor,
        bitmaps_advised: Option<String>,
    ) -> Self {
        Self { version: VERSION, hypervisor, translators, processor, bitmaps_advised }
    }

    /// Whether its state is loaded without a write to its memory, so that who loads it may do so while the memory is still
    /// the source's. An interrupt translation service consumes the tables that it wrote there, and the engine's software
    /// vCPUs are not held to that.
    ///
    /// # Errors
    /// Why not, for people.
    pub(super) fn leaves_memory_alone(&self) -> Result<(), String> {
        match (self.hypervisor, self.translators) {
            (Hypervisor::Kvm, None | Some(0)) => Ok(()),
            (Hypervisor::Kvm, Some(_)) => {
                Err("its interrupt translation service writes memory when its state is loaded".into())
            }
            (Hypervisor::Engine, _) => Err("the engine writes memory when its state is loaded".into()),
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        codec::encode(self)
    }

    /// What `offer` says of them.
    pub(super) fn of(offer: &Offer) -> Result<Self, String> {
        Self::decode(&offer.needs)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let needs: Self = codec::decode(bytes).map_err(|what| {
            format!("it is no machine of this monitor: what it needs is not understood: {what}")
        })?;
        match needs.version {
            VERSION => Ok(needs),
            other => {
                Err(format!("what it needs is of version {other}, and this program reads version {VERSION}"))
            }
        }
    }
}
