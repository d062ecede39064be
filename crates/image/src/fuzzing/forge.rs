//! Images whose hashes are right and whose contents are not.

use std::error::Error;

use crate::format::blocks::BlockKind;
use crate::format::node::{self, FANOUT, NodeRef};
use crate::store::image_key;
use crate::write::pack::PackWriter;
use crate::{Image, ImageError, ImageId, Store};

/// The bytes of the root of `image`, and of its children.
pub(super) fn nodes(image: &Image) -> Vec<Vec<u8>> {
    let mut nodes = Vec::new();
    let mut add = |image: &Image, at: NodeRef| -> Result<(), ImageError> {
        let mut bytes = vec![0; at.len as usize];
        image.tree().packs.read(at.pack, at.offset, &mut bytes)?;
        nodes.push(bytes);
        Ok(())
    };
    let Some(root) = image.tree().root else { return nodes };
    let _ = add(image, root);
    if let Ok(branch) = image.tree().branch(&root, image.tree().level()) {
        for child in (0..FANOUT).filter_map(|i| branch.child(i)) {
            let _ = add(image, child);
        }
    }
    nodes
}

/// The newest image of `store` again, with `noise` laid over its root.
pub(super) fn root(store: &Store, noise: &[u8]) -> Result<Option<Image>, Box<dyn Error>> {
    let Some(newest) = store.newest("vm")? else { return Ok(None) };
    let image = store.image(newest.id)?;
    let mut meta = image.meta().clone();
    let Some(mut bytes) = nodes(&image).into_iter().next() else { return Ok(None) };
    bytes.resize(bytes.len().max(noise.len()).min(node::MAX_NODE), 0);
    bytes.iter_mut().zip(noise).for_each(|(byte, noise)| *byte ^= noise);

    let mut packs = PackWriter::new(store.clone(), "f".repeat(16), meta.next_pack, Default::default());
    let hash = node::hash(&bytes);
    let (pack, offset) = packs.append(BlockKind::Index, hash, &bytes)?;
    meta.packs.extend(packs.finish()?);
    meta.next_pack += 1;
    meta.sequence += 1;
    meta.root = Some(NodeRef { pack, len: u32::try_from(bytes.len())?, offset, hash });
    let bytes = meta.encode()?;
    let id = ImageId::of(&bytes);
    store.backend().put_if_absent(&image_key(meta.sequence, id), &bytes)?;
    Ok(Some(store.image(id)?))
}
