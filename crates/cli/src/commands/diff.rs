//! `ringmark diff`: what differs between two images.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal};
use std::path::Path;

use indicatif::{BinaryBytes, HumanCount};
use ringmark_care::diff::{DiffError, Run, diff};
use ringmark_care::heat::Heat;
use ringmark_image::{Image, Layout};
use serde_json::{Value, json};

use crate::args::{Canvas, DiffArgs};
use crate::failure::{Code, Failure, OrFail, Result};
use crate::{output, store};

/// Runs that are listed unless all are asked for.
const RUNS: usize = 20;

/// Cells of a picture in a file, each way.
const PICTURE: usize = 128;

/// Compares the images.
pub(crate) fn run(args: &DiffArgs, as_json: bool) -> Result {
    let (names, canvas) = args.parts().or_fail(Code::Usage)?;
    let store = store::open(&args.store)?;
    let [a, b] = names.map(|name| store::image(&store, name));
    let (a, b) = (a?, b?);
    let runs = diff(&a, &b).map_err(|error| match error {
        DiffError::Layout { .. } => Failure::new(Code::Usage, error),
        DiffError::Image(error) => Failure::new(store::image_code(&error), error),
    })?;
    if let Some(Canvas::File(file)) = &canvas {
        paint(&Heat::new(b.layout(), &runs, PICTURE, PICTURE), file)?;
    }
    if as_json {
        output::json(&document(&a, &b, &runs, canvas.as_ref()));
        return Ok(());
    }
    print(&a, &b, &runs, args.all);
    match canvas {
        Some(Canvas::Terminal) => output::line(terminal(b.layout(), &runs)),
        Some(Canvas::File(file)) => output::line(format!("the picture is {}", file.display())),
        None => {}
    }
    Ok(())
}

fn document(a: &Image, b: &Image, runs: &[Run], canvas: Option<&Canvas>) -> Value {
    let page = b.layout().page_size().bytes();
    json!({
        "schema": output::SCHEMA,
        "a": a.id().to_hex(),
        "b": b.id().to_hex(),
        "page_size": page,
        "pages": b.layout().pages(),
        "changed_pages": changed(runs),
        "changed_bytes": changed(runs) * page,
        "runs": runs.iter().map(|run| json!({
            "slot": run.slot.raw(),
            "first_page": run.first,
            "pages": run.pages,
            "address": run.address,
            "bytes": run.pages * page,
        })).collect::<Vec<_>>(),
        "picture": match canvas {
            Some(Canvas::File(file)) => Some(file),
            _ => None,
        },
    })
}

fn changed(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.pages).sum()
}

fn print(a: &Image, b: &Image, runs: &[Run], all: bool) {
    let page = b.layout().page_size().bytes();
    let (pages, of) = (changed(runs), b.layout().pages());
    output::line(format!(
        "{} of {} pages differ between {} and {} ({}), in {} runs",
        HumanCount(pages),
        HumanCount(of),
        a.id(),
        b.id(),
        BinaryBytes(pages * page),
        HumanCount(runs.len() as u64),
    ));
    let shown = if all { runs.len() } else { RUNS };
    if !runs.is_empty() {
        let rows = runs.iter().take(shown).map(|run| {
            let end = run.address + run.pages * page;
            vec![
                run.slot.to_string(),
                format!("{:#x}", run.address),
                format!("{end:#x}"),
                HumanCount(run.pages).to_string(),
                BinaryBytes(run.pages * page).to_string(),
            ]
        });
        output::line(output::table(&["memslot", "from", "to", "pages", "bytes"], &[1, 2, 3, 4], rows));
    }
    if let Some(more) = runs.len().checked_sub(shown).filter(|more| *more > 0) {
        output::line(format!("and {} runs more; --all lists them", HumanCount(more as u64)));
    }
}

/// As wide as the terminal, at most half as high as it is wide.
fn terminal(layout: &Layout, runs: &[Run]) -> Heat {
    let width = match terminal_size::terminal_size() {
        Some((width, _)) if io::stdout().is_terminal() => usize::from(width.0),
        _ => 80,
    };
    let columns = width.saturating_sub(Heat::MARGIN).max(8);
    Heat::new(layout, runs, columns, columns.div_ceil(2).min(32))
}

fn paint(heat: &Heat, path: &Path) -> Result {
    let failed =
        |error: io::Error| Failure::new(Code::Failed, format!("writing {} failed: {error}", path.display()));
    let mut out = BufWriter::new(File::create(path).map_err(failed)?);
    let painted = match path.extension() {
        Some(extension) if extension == "svg" => heat.write_svg(&mut out),
        _ => heat.write_png(&mut out),
    };
    painted.and_then(|()| io::Write::flush(&mut out)).map_err(failed)
}
