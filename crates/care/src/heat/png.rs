//! The picture as PNG.

use std::io::{self, Write};

use super::{Heat, Level};

/// Pixels of a cell, each way.
const CELL: usize = 8;

impl Heat {
    /// Writes the picture as PNG: eight by eight pixels a cell, one of the background between memslots. An image of
    /// colours only; [`write_svg`](Self::write_svg) has addresses and a legend.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_png(&self, out: impl Write) -> io::Result<()> {
        let width = self.columns * CELL;
        let mut pixels: Vec<u8> = Vec::new();
        // Palette entries: those of the levels, then the background.
        let background = u8::try_from(Level::EVERY.len()).unwrap_or_default();
        for row in self.rows() {
            if row.first && !pixels.is_empty() {
                pixels.resize(pixels.len() + width * CELL, background);
            }
            let mut line: Vec<u8> = row.levels().flat_map(|level| [level as u8; CELL]).collect();
            line.resize(width, background);
            (0..CELL).for_each(|_| pixels.extend_from_slice(&line));
        }
        let height = u32::try_from(pixels.len() / width).map_err(io::Error::other)?;
        let mut encoder = png::Encoder::new(out, u32::try_from(width).map_err(io::Error::other)?, height);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        let mut palette: Vec<u8> = Level::EVERY.iter().flat_map(|level| level.colour()).collect();
        palette.extend([0xff; 3]);
        encoder.set_palette(palette);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&pixels)?;
        writer.finish()?;
        Ok(())
    }
}
