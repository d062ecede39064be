//! `ringmark images`: what a store holds.

use std::time::SystemTime;

use indicatif::{BinaryBytes, HumanCount};
use ringmark_image::{Listing, Store, Summary};
use serde_json::json;

use crate::args::ImagesArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::{output, paths};

/// Lists the images, newest first.
pub(crate) fn run(args: &ImagesArgs, as_json: bool) -> Result {
    let dir = paths::store(&args.store)?;
    let store = Store::open(&dir).map_err(|e| crate::store::open_failure(&e))?;
    let listing = store.list().or_fail(Code::Store)?;
    let wanted = |image: &&Summary| args.vm.as_ref().is_none_or(|vm| *vm == image.vm);
    let images: Vec<&Summary> = listing.images.iter().filter(wanted).collect();
    if as_json {
        let images: Vec<_> = images.iter().map(|image| document(image)).collect();
        let damaged: Vec<_> = listing
            .damaged
            .iter()
            .map(|entry| json!({ "entry": entry.name, "error": entry.error.to_string() }))
            .collect();
        output::json(&json!({
            "schema": output::SCHEMA, "store": dir, "images": images, "damaged": damaged,
        }));
    } else {
        print(&images);
    }
    report_damaged(&listing)
}

fn document(image: &Summary) -> serde_json::Value {
    json!({
        "id": image.id.to_hex(),
        "vm": image.vm,
        "parent": image.parent.map(|id| id.to_hex()),
        "created_ns": image.created_ns,
        "memory_bytes": image.memory_bytes,
        "page_size": image.page_size,
        "pages": image.pages,
        "zero_pages": image.zero_pages,
        "bytes": image.bytes_stored,
    })
}

fn print(images: &[&Summary]) {
    let now = SystemTime::now();
    let rows = images.iter().map(|image| {
        let age = now.duration_since(image.created()).unwrap_or_default();
        vec![
            image.id.to_string(),
            image.vm.clone(),
            image.parent.map_or_else(|| "base".to_owned(), |id| id.to_string()),
            format!("{} ago", indicatif::HumanDuration(age)),
            BinaryBytes(image.memory_bytes).to_string(),
            HumanCount(image.pages).to_string(),
            BinaryBytes(image.bytes_stored).to_string(),
        ]
    });
    let header = ["image", "machine", "parent", "taken", "memory", "pages", "stored"];
    output::line(output::table(&header, &[4, 5, 6], rows));
}

fn report_damaged(listing: &Listing) -> Result {
    let Some(first) = listing.damaged.first() else { return Ok(()) };
    let count = listing.damaged.len();
    Err(Failure::new(
        Code::ImageInvalid,
        format!(
            "{count} of the store's entries cannot be read; the first is {}: {}",
            first.name, first.error
        ),
    )
    .advice("the images listed are not affected; `ringmark verify` checks them")
    .documented())
}
