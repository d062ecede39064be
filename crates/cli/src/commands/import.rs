//! `ringmark import`: an image of raw memory.

use std::time::SystemTime;

use indicatif::{BinaryBytes, HumanCount};
use ringmark_care::import::{Import, ImportError, Region, import};
use ringmark_dirty::PageSize;
use serde_json::json;

use crate::args::ImportArgs;
use crate::failure::{Code, Failure, Result};
use crate::progress::Spinner;
use crate::{output, store};

/// Writes the image.
pub(crate) fn run(args: &ImportArgs, as_json: bool, quiet: bool) -> Result {
    let bytes = args.page_size.map_or(rustix::param::page_size() as u64, |size| size.0);
    let page_size = PageSize::new(bytes).ok_or_else(|| {
        Failure::new(Code::Usage, format!("pages have no {bytes} bytes: give a power of two, as 4K"))
    })?;
    let regions: Vec<Region> = args.regions.iter().map(|region| region.0).collect();
    let store = store::create_or_open(&args.store)?;
    let spinner = Spinner::new(quiet || as_json, format!("importing {}", args.file.display()));
    let imported = import(
        &store,
        &Import {
            file: &args.file,
            vm: &args.name,
            page_size,
            regions: &regions,
            created: SystemTime::now(),
        },
    );
    spinner.finish();
    let finished = imported.map_err(|error| {
        let code = match &error {
            ImportError::Begin(ringmark_image::BeginError::Name(_)) => Code::Usage,
            ImportError::Begin(_) | ImportError::Write(_) => Code::Store,
            ImportError::Io { .. } => Code::Failed,
            _ => Code::Usage,
        };
        Failure::new(code, error)
    })?;
    if as_json {
        output::json(&json!({
            "schema": output::SCHEMA,
            "image": finished.id.to_hex(),
            "vm": args.name,
            "pages": finished.pages,
            "zero_pages": finished.zero_pages,
            "bytes": finished.bytes_stored,
        }));
    } else {
        output::line(format!(
            "{} holds the memory in {}: {} pages, {} stored; it has no machine state and cannot be restored",
            finished.id,
            args.file.display(),
            HumanCount(finished.pages),
            BinaryBytes(finished.bytes_stored),
        ));
    }
    Ok(())
}
