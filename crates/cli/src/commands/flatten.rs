//! `ringmark flatten`: a base with the contents of any image.

use indicatif::{BinaryBytes, HumanCount};
use ringmark_care::flatten::{FlattenError, flatten};
use serde_json::json;

use crate::args::FlattenArgs;
use crate::failure::{Code, Failure, Result};
use crate::progress::Spinner;
use crate::{output, store};

/// Writes the base.
pub(crate) fn run(args: &FlattenArgs, as_json: bool, quiet: bool) -> Result {
    let store = store::open(&args.store)?;
    let image = store::image(&store, &args.image)?;
    let spinner = Spinner::new(quiet || as_json, format!("flattening {}", image.id()));
    let flattened = flatten(&store, &image);
    spinner.finish();
    let finished = flattened.map_err(|error| {
        let code = match &error {
            FlattenError::Image(error) => store::image_code(error),
            FlattenError::Begin(_) | FlattenError::Write(_) => Code::Store,
        };
        Failure::new(code, error)
    })?;
    if as_json {
        output::json(&json!({
            "schema": output::SCHEMA,
            "from": image.id().to_hex(),
            "image": finished.id.to_hex(),
            "vm": image.summary().vm,
            "pages": finished.pages,
            "zero_pages": finished.zero_pages,
            "bytes": finished.bytes_stored,
        }));
    } else {
        output::line(format!(
            "{} is a base with the contents of {}: {} pages, {} stored",
            finished.id,
            image.id(),
            HumanCount(finished.pages),
            BinaryBytes(finished.bytes_stored),
        ));
    }
    Ok(())
}
