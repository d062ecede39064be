//! Documents and tables on stdout.

use std::io::{self, Write};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;

/// Version of every JSON document this program prints; a field that changes its meaning raises it.
pub(crate) const SCHEMA: u32 = 1;

/// Prints one document. A reader that went away is not an error worth a message.
pub(crate) fn json<T: Serialize>(document: &T) {
    let mut out = io::stdout().lock();
    let printed = serde_json::to_writer(&mut out, document).map_err(io::Error::from);
    let _ = printed.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}

/// Prints a line.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// A table with `header`; the columns in `right` hold numbers.
pub(crate) fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
