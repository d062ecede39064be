//! The step that makes an image visible.

use std::io;
use std::sync::Arc;

use crate::format::meta::Meta;
use crate::store::image_key;
use crate::summary::Summary;
use crate::write::begin::Workplace;
use crate::{ImageId, Store, WriteError};

/// An image that is visible and durable.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) id: ImageId,
    pub(crate) bytes_stored: u64,
}

/// Puts the metadata of an image, all of whose packs are durable. Its number in the order of the store is the next, and
/// larger than the one `meta` has; images that become complete in the same moment may share one.
pub(crate) fn publish(store: &Store, workplace: Workplace, mut meta: Meta) -> Result<Published, WriteError> {
    let written = workplace.ledger.written();
    let failed = |doing, at: &str, e| WriteError::io(doing, &store.name(at), e, written);
    let (entries, _) = store.entries().map_err(|e| failed("listing", "images", e))?;
    let last = entries.iter().map(|e| e.sequence).max().unwrap_or(0);
    meta.sequence = meta.sequence.max(last.saturating_add(1));
    let bytes = meta
        .encode()
        .map_err(|e| failed("encoding metadata for", "images", io::Error::other(e.to_string())))?;
    let id = ImageId::of(&bytes);
    let key = image_key(meta.sequence, id);
    let Some(claim) = workplace.publish() else {
        return Err(failed("publishing", &key, io::Error::other("the writer has no claim")));
    };
    claim.confirm().map_err(|e| failed("publishing", &key, e))?;
    match store.backend().put_if_absent(&key, &bytes) {
        Ok(true) => {}
        Ok(false) => return Err(failed("publishing", &key, io::ErrorKind::AlreadyExists.into())),
        Err(error) => return Err(withdraw(store, id, &key, error, written)),
    }
    if let Err(error) = claim.release() {
        tracing::warn!(%error, "the claim of a writer is left; the next writer removes it");
    }
    let bytes_stored = Summary::of(&meta, id, bytes.len() as u64).bytes_stored;
    Ok(Published { id, bytes_stored })
}

/// The image may be visible, and may not survive a power failure, so that nobody may rely on it: makes it invisible. Its
/// packs are left to the next writer, who finds out whether an image needs them.
fn withdraw(store: &Store, id: ImageId, key: &str, error: io::Error, written: u64) -> WriteError {
    let at = store.name(key);
    if store.backend().delete(key).is_ok() {
        return WriteError::io("publishing", &at, error, written);
    }
    match store.backend().sizes(&[key.to_owned()]).as_deref() {
        Ok([None]) => WriteError::io("publishing", &at, error, written),
        _ => WriteError::NotWithdrawn { id, doing: "publishing", at, source: Arc::new(error) },
    }
}
