//! `ringmark export`: guest memory as a file.

use indicatif::BinaryBytes;
use ringmark_care::core::{Architecture, Core};
use ringmark_care::export::{self, ExportError, Exported};
use ringmark_image::Image;
use ringmark_machine::{RestoreError, SavedRegisters};
use serde_json::json;

use crate::args::{ExportArgs, ExportFormat};
use crate::failure::{Code, Failure, Result};
use crate::progress::Spinner;
use crate::{output, store};

/// Writes the file.
pub(crate) fn run(args: &ExportArgs, as_json: bool, quiet: bool) -> Result {
    let store = store::open(&args.store)?;
    let image = store::image(&store, &args.image)?;
    let core = match args.format {
        ExportFormat::Raw => None,
        ExportFormat::Elf => Some(core(&image)?),
    };
    let spinner = Spinner::new(quiet || as_json, format!("exporting {}", image.id()));
    let exported = match &core {
        None => export::raw(&image, &args.file),
        Some(core) => export::elf(&image, core, &args.file),
    };
    spinner.finish();
    let Exported { length, written } = exported.map_err(|error| {
        let code = match &error {
            ExportError::Image(error) => store::image_code(error),
            ExportError::Exists(_) => Code::Usage,
            ExportError::Io { .. } | ExportError::Core(_) => Code::Failed,
        };
        Failure::new(code, error)
    })?;
    let vcpus = core.map(|core| core.vcpus.len());
    if as_json {
        output::json(&json!({
            "schema": output::SCHEMA,
            "image": image.id().to_hex(),
            "file": args.file,
            "format": match args.format { ExportFormat::Raw => "raw", ExportFormat::Elf => "elf" },
            "length": length,
            "written": written,
            "vcpus": vcpus,
        }));
    } else {
        let registers = match vcpus {
            None => String::new(),
            Some(0) => ", without registers".to_owned(),
            Some(vcpus) => format!(", with the registers of {vcpus} vCPUs"),
        };
        output::line(format!(
            "{} holds the memory of {}{registers}: {} long, {} written",
            args.file.display(),
            image.id(),
            BinaryBytes(length),
            BinaryBytes(written),
        ));
    }
    Ok(())
}

/// Architecture and registers; memory that was imported is taken for this host's architecture.
fn core(image: &Image) -> Result<Core> {
    let saved = SavedRegisters::of(image).map_err(|error| {
        let code = match &error {
            RestoreError::Image(error) => store::image_code(error),
            _ => Code::ImageInvalid,
        };
        Failure::new(code, error)
    })?;
    let (name, vcpus) = match saved {
        Some(saved) => (saved.architecture, saved.vcpus),
        None => (std::env::consts::ARCH.to_owned(), Vec::new()),
    };
    let architecture = Architecture::named(&name).ok_or_else(|| {
        Failure::new(Code::Failed, format!("no core file can be written of an image of {name}"))
    })?;
    Ok(Core { architecture, vcpus })
}
