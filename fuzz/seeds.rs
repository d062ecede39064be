//! Writes the seeds of the fuzz targets, taken from real images and machines, to `corpus/<target>/`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let [metas, nodes, tables] = ringmark_image::fuzzing::seeds();
    let [states, needs, working_sets] = ringmark_machine::fuzzing::seeds();
    for (target, seeds) in [
        ("metadata", metas),
        ("node", nodes),
        ("table", tables),
        ("image", vec![vec![0], vec![1]]),
        ("state", states),
        ("machine", vec![vec![0], vec![1], vec![2]]),
        ("needs", needs),
        ("working_set", working_sets),
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&dir)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
