//! `ringmark images`: what a store holds.

use std::collections::HashMap;

use indicatif::{BinaryBytes, HumanCount};
use ringmark_care::family::{self, Member};
use ringmark_image::{ImageId, Listing, Summary};
use serde_json::json;

use crate::args::ImagesArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::{output, store};

/// Lists the images: for people as trees, oldest first; as a document newest first.
pub(crate) fn run(args: &ImagesArgs, as_json: bool) -> Result {
    let store = store::open(&args.store)?;
    let listing = store.list().or_fail(Code::Store)?;
    let frees = family::freed_by_each(&listing);
    let wanted = |image: &&Summary| args.vm.as_ref().is_none_or(|vm| *vm == image.vm);
    let images: Vec<&Summary> = listing.images.iter().filter(wanted).collect();
    if as_json {
        let images: Vec<_> = images.iter().map(|image| document(image, &frees)).collect();
        let damaged: Vec<_> = listing
            .damaged
            .iter()
            .map(|entry| json!({ "entry": entry.name, "error": entry.error.to_string() }))
            .collect();
        output::json(&json!({
            "schema": output::SCHEMA, "store": store.location(), "images": images, "damaged": damaged,
        }));
    } else {
        print(&family::forest(&images), &frees);
    }
    report_damaged(&listing)
}

fn document(image: &Summary, frees: &HashMap<ImageId, u64>) -> serde_json::Value {
    json!({
        "id": image.id.to_hex(),
        "vm": image.vm,
        "parent": image.parent.map(|id| id.to_hex()),
        "created_ns": image.created_ns,
        "memory_bytes": image.memory_bytes,
        "page_size": image.page_size,
        "pages": image.pages,
        "zero_pages": image.zero_pages,
        "repeated_pages": image.repeated_pages,
        "unchanged_pages": image.unchanged_pages,
        "bytes": image.bytes_stored,
        "frees": frees.get(&image.id),
    })
}

fn print(members: &[Member<'_>], frees: &HashMap<ImageId, u64>) {
    let rows = members.iter().map(|member| {
        let image = member.image;
        let parent = match (image.parent, member.has_parent) {
            (None, _) => "base".to_owned(),
            (Some(parent), true) => parent.to_string(),
            // The image is complete all the same.
            (Some(parent), false) => format!("{parent}, gone"),
        };
        vec![
            format!("{}{}", member.lines(), image.id),
            image.vm.clone(),
            parent,
            store::age(image),
            BinaryBytes(image.memory_bytes).to_string(),
            HumanCount(image.pages).to_string(),
            BinaryBytes(image.bytes_stored).to_string(),
            BinaryBytes(frees.get(&image.id).copied().unwrap_or_default()).to_string(),
        ]
    });
    let header = ["image", "machine", "parent", "taken", "memory", "pages", "stored", "removing frees"];
    output::line(output::table(&header, &[4, 5, 6, 7], rows));
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
