//! The picture in a terminal.

use std::fmt;

use super::{Heat, Level};

impl Heat {
    /// Characters of a line that are not cells: address and frame.
    pub const MARGIN: usize = 21;
}

impl Level {
    const fn glyph(self) -> char {
        match self {
            Self::None => '·',
            Self::Quarter => '░',
            Self::Half => '▒',
            Self::Most => '▓',
            Self::All => '█',
        }
    }
}

/// Lines of [`Heat::MARGIN`] characters and one for each column, then a legend.
impl fmt::Display for Heat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.rows() {
            if row.first && self.bands.len() > 1 {
                writeln!(f, "memslot {}", row.slot)?;
            }
            let cells: String = row.levels().map(Level::glyph).collect();
            writeln!(f, "{:#018x} │{cells:<columns$}│", row.start, columns = self.columns)?;
        }
        write!(f, "a cell is {} pages;", self.pages_per_cell)?;
        for level in Level::EVERY {
            let separator = if level == Level::None { " " } else { ", " };
            write!(f, "{separator}{} {}", level.glyph(), level.words())?;
        }
        Ok(())
    }
}
