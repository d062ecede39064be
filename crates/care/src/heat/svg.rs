//! The picture as SVG.

use std::io::{self, Write};

use svg::Document;
use svg::node::element::{Group, Rectangle, Text, Title};

use super::{Heat, Level, Row};

/// Units of a cell, each way.
const CELL: usize = 8;
/// Units left of the cells, for addresses.
const MARGIN: usize = 150;
/// Units of a line of text.
const LINE: usize = 16;

impl Heat {
    /// Writes the picture as SVG, with addresses and a legend. Cells that changed say their address and how many of
    /// their pages changed when they are pointed at.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_svg(&self, out: impl Write) -> io::Result<()> {
        let mut y = 0;
        let mut grid = Group::new();
        // The row before the last label, so that labels do not overlap.
        let mut labelled = 0;
        for row in self.rows() {
            if row.first && y > 0 {
                y += LINE;
            }
            if row.first || y >= labelled + 4 * LINE {
                grid = grid.add(label(0, y + CELL, &format!("{:#018x}", row.start)));
                labelled = y;
            }
            grid = self.add_row(grid, &row, y);
            y += CELL;
        }
        let (legend, height) = self.legend(y + LINE);
        let width = (MARGIN + self.columns * CELL).max(MARGIN + 300);
        let style = "svg { background: #fff } text { font: 12px monospace; fill: #111 }";
        let document = Document::new()
            .set("width", width)
            .set("height", height)
            .set("viewBox", (0, 0, width, height))
            .add(svg::node::element::Style::new(style))
            .add(grid)
            .add(legend);
        svg::write(out, &document)
    }

    /// Neighbours that did not change are one rectangle; a cell that changed is one with a title.
    fn add_row(&self, mut grid: Group, row: &Row<'_>, y: usize) -> Group {
        grid = grid.add(cells(Level::None, MARGIN, y, row.changed.len()));
        for (column, level) in row.levels().enumerate().filter(|(_, level)| *level != Level::None) {
            let address = row.start + column as u64 * self.cell_bytes();
            let title = format!("{address:#x}: {} of {} pages", row.changed[column], row.pages[column]);
            grid = grid.add(cells(level, MARGIN + column * CELL, y, 1).add(Title::new(title)));
        }
        grid
    }

    fn legend(&self, mut y: usize) -> (Group, usize) {
        let mut legend = Group::new();
        for level in Level::EVERY {
            legend =
                legend.add(cells(level, MARGIN, y, 1)).add(label(MARGIN + 2 * CELL, y + CELL, level.words()));
            y += LINE;
        }
        let cell = format!("a cell is {} pages of {} bytes", self.pages_per_cell, self.page_bytes);
        (legend.add(label(MARGIN, y + CELL, &cell)), y + 2 * LINE)
    }
}

fn cells(level: Level, x: usize, y: usize, count: usize) -> Rectangle {
    let [red, green, blue] = level.colour();
    Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", count * CELL)
        .set("height", CELL)
        .set("fill", format!("#{red:02x}{green:02x}{blue:02x}"))
}

fn label(x: usize, y: usize, text: &str) -> Text {
    Text::new(text).set("x", x).set("y", y)
}
