//! Before the first put, and what is cleaned up when there is no last one.

use std::io;
use std::sync::Arc;

use ringmark_dirty::mutant::{self, Mutant};

use super::pack::{Ledger, PACK_BYTES, PackWriter};
use super::pipeline::Pipeline;
use super::writer::{ImageSpec, Writer};
use crate::backend::Claim;
use crate::format::meta;
use crate::{BeginError, ImageId, Store};

/// Packs that are many, beside those that the memory itself may need: some four hundred kilobytes of metadata, which every
/// further increment would write again.
const MANY_PACKS: u64 = 4096;

/// What a writer has made, until it is an image: dropped, it removes it.
#[derive(Debug)]
pub(crate) struct Workplace {
    store: Store,
    claim: Option<Box<dyn Claim>>,
    /// What the image goes on from, which is not the writer's to remove.
    parent: Option<ImageId>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Workplace {
    /// From here on the packs may be those of a visible image: nothing is removed but by whoever finds, when this writer
    /// is gone, that they are not. Returns the claim of the writer.
    pub(crate) fn publish(mut self) -> Option<Box<dyn Claim>> {
        self.claim.take()
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        if mutant::active(Mutant::FailedWriterTakesParent) {
            let _ = self.store.remove(self.parent.as_slice());
        }
        for key in self.ledger.committed() {
            if let Err(error) = self.store.backend().delete(&key) {
                tracing::warn!(key, %error, "a pack of an unfinished image is left; the next writer removes it");
                return;
            }
        }
        if let Err(error) = claim.release() {
            tracing::warn!(%error, "the claim of a writer is left; the next writer removes it");
        }
    }
}

/// Random bits of the system's.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(u64::from_le_bytes(bytes))
}

pub(crate) fn begin(store: &Store, spec: ImageSpec) -> Result<Writer, BeginError> {
    if !meta::is_vm_name(&spec.vm) {
        return Err(BeginError::Name(spec.vm));
    }
    let at = || store.location().to_owned();
    let failed = |doing| move |source| BeginError::Io { doing, at: at(), source };
    let claims = store.backend().claims().map_err(failed("looking for leftovers in"))?;
    if claims.iter().any(|c| !c.alive)
        && let Err(error) = store.sweep()
    {
        tracing::warn!(%error, "what killed writers left could not be removed");
    }
    let writer = format!("{:016x}", random().map_err(failed("naming a writer of"))?);
    let parent_hex = spec.parent.map(|id| id.to_hex()).unwrap_or_default();
    // Claimed before the parent is opened: who removes images from now on leaves the parent's packs alone.
    let claim =
        store.backend().claim(&writer, parent_hex.as_bytes()).map_err(failed("claiming a place in"))?;
    let ledger = Arc::new(Ledger::default());
    let workplace = Workplace {
        store: store.clone(),
        claim: Some(claim),
        parent: spec.parent,
        ledger: Arc::clone(&ledger),
    };
    let parent = spec.parent.map(|id| store.image(id)).transpose().map_err(BeginError::Parent)?;
    if let Some(parent) = &parent
        && *parent.layout() != spec.layout
    {
        return Err(BeginError::ParentLayout { parent: parent.id() });
    }
    if let Some(parent) = &parent
        && parent.meta().packs.len() as u64 > MANY_PACKS + 2 * (spec.layout.bytes() / PACK_BYTES)
    {
        return Err(BeginError::Scattered { parent: parent.id(), packs: parent.meta().packs.len() });
    }
    let seed = match &parent {
        Some(parent) => parent.meta().seed,
        None => random().map_err(failed("drawing a seed for"))?,
    };
    let first = parent.as_ref().map_or(0, |p| p.meta().next_pack);
    let packs = PackWriter::new(store.clone(), writer, first, ledger);
    let pipeline =
        Pipeline::start(&spec.layout, parent.clone(), seed, packs).map_err(failed("starting threads for"))?;
    Ok(Writer::new(store.clone(), spec, parent, seed, pipeline, workplace))
}
