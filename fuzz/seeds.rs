//! Writes the seeds of the fuzz targets, taken from real images, to `corpus/<target>/`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in ["metadata", "node", "table"].iter().zip(ringmark_image::fuzzing::seeds()) {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:03}")), seed)?;
        }
    }
    let dir = corpus.join("image");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("seed-000"), [0])?;
    fs::write(dir.join("seed-001"), [1])
}
