//! `ringmark verify`: whether images are what they were.

use indicatif::{BinaryBytes, HumanCount};
use ringmark_image::{ImageId, Verifier};
use serde_json::json;

use crate::args::VerifyArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::progress::Spinner;
use crate::{output, store};

/// Checks one image, or all; what they share is checked once.
pub(crate) fn run(args: &VerifyArgs, as_json: bool, quiet: bool) -> Result {
    let store = store::open(&args.store)?;
    let mut failures = Vec::new();
    let ids: Vec<ImageId> = match &args.image {
        Some(name) => vec![store::resolve(&store, name)?],
        None => {
            let listing = store.list().or_fail(Code::Store)?;
            failures.extend(listing.damaged.iter().map(|d| (d.name.clone(), d.error.to_string())));
            listing.images.iter().map(|image| image.id).collect()
        }
    };
    let mut verifier = Verifier::new(args.deep);
    let mut checked = Vec::new();
    let mut missing = false;
    for id in ids {
        let spinner = Spinner::new(quiet || as_json, format!("checking {id}"));
        let result = store.image(id).and_then(|image| verifier.check(&image));
        spinner.finish();
        match result {
            Ok(verified) => checked.push((id, verified)),
            Err(error) => {
                missing |= store::image_code(&error) == Code::LayerMissing;
                failures.push((id.to_string(), error.to_string()));
            }
        }
    }
    if as_json {
        output::json(&json!({
            "schema": output::SCHEMA,
            "ok": failures.is_empty(),
            "deep": args.deep,
            "images": checked.iter().map(|(id, v)| json!({
                "id": id.to_hex(), "packs": v.packs, "pages": v.pages, "bytes_read": v.bytes_read,
            })).collect::<Vec<_>>(),
            "failed": failures.iter().map(|(id, error)| json!({ "id": id, "error": error })).collect::<Vec<_>>(),
        }));
    } else {
        let rows = checked.iter().map(|(id, verified)| {
            let pages = HumanCount(verified.pages).to_string();
            let read = BinaryBytes(verified.bytes_read).to_string();
            vec![id.to_string(), verified.packs.to_string(), pages, read, "ok".to_owned()]
        });
        let failed = failures
            .iter()
            .map(|(id, error)| vec![id.clone(), String::new(), String::new(), String::new(), error.clone()]);
        let header = ["image", "packs", "pages", "read", "result"];
        output::line(output::table(&header, &[1, 2, 3], rows.chain(failed)));
    }
    match failures.first() {
        None => Ok(()),
        Some((id, error)) => {
            let code = if missing { Code::LayerMissing } else { Code::ImageInvalid };
            let message =
                format!("{} of the images checked cannot be restored; {id}: {error}", failures.len());
            Err(Failure::new(code, message).advice("restore an image that is listed as ok").documented())
        }
    }
}
