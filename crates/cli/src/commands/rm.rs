//! `ringmark rm`: removing images.

use std::collections::BTreeSet;

use indicatif::{BinaryBytes, HumanCount};
use ringmark_care::family::{Orphans, orphans};
use ringmark_image::ImageId;
use serde_json::json;

use crate::args::RmArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::{output, store};

/// Removes the images, unless children stay behind.
pub(crate) fn run(args: &RmArgs, as_json: bool) -> Result {
    let store = store::open(&args.store)?;
    let listing = store.list().or_fail(Code::Store)?;
    let ids =
        args.images.iter().map(|name| store::identity(&store, name)).collect::<Result<BTreeSet<_>>>()?;
    let ids: Vec<ImageId> = ids.into_iter().collect();
    let left_behind = orphans(&listing, &ids);
    if !left_behind.is_empty() && !args.orphan {
        let why = left_behind.iter().map(Orphans::to_string).collect::<Vec<_>>().join("; ");
        return Err(Failure::new(Code::Children, format!("nothing was removed: {why}")).advice(
            "name the children, too, or say --orphan: they are complete without their parent and lose only their \
             line of descent",
        ));
    }
    let removed = store.remove(&ids).map_err(|error| store::remove_failure(&error))?;
    if as_json {
        let mut document = store::removed(&removed);
        document["schema"] = json!(output::SCHEMA);
        document["ids"] = ids.iter().map(ImageId::to_hex).collect();
        output::json(&document);
    } else {
        output::line(format!(
            "{} images were removed, {} are free",
            HumanCount(removed.images),
            BinaryBytes(removed.bytes)
        ));
    }
    Ok(())
}
