//! Checking a chain without restoring it.

use rayon::prelude::*;

use crate::ImageError;
use crate::index::{Run, ZERO};
use crate::layer::Layer;

/// What a verification covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Images checked: the image and its ancestors.
    pub layers: u64,
    /// Pages whose contents were hashed; 0 unless the verification was deep.
    pub pages: u64,
    /// Bytes read from packs and machine state; 0 unless the verification was deep.
    pub bytes_read: u64,
}

pub(crate) fn verify(layers: &[Layer], deep: bool) -> Result<Verified, ImageError> {
    let mut verified = Verified { layers: layers.len() as u64, ..Verified::default() };
    if deep {
        for layer in layers {
            verified.bytes_read += layer.check_files()?;
            let (pages, read) = check_pages(layer)?;
            verified.pages += pages;
            verified.bytes_read += read;
        }
    }
    Ok(verified)
}

/// Hashes every page that the layer holds. Returns the pages and the bytes read.
fn check_pages(layer: &Layer) -> Result<(u64, u64), ImageError> {
    let mut runs: Vec<&Run> = layer.index.runs.iter().filter(|r| r.extent != ZERO).collect();
    runs.par_sort_unstable_by_key(|r| (r.extent, r.skip));
    let extents: Vec<&[&Run]> = runs.chunk_by(|a, b| a.extent == b.extent).collect();
    let pack = layer.pack()?;
    extents
        .into_par_iter()
        .map_init(Default::default, |(stored, raw), runs| {
            let read = layer.decode(&pack, runs[0].extent, stored, raw)?;
            let mut pages = 0;
            for run in runs {
                layer.checked(run, raw)?;
                pages += u64::from(run.npages);
            }
            Ok((pages, read))
        })
        .try_reduce(|| (0, 0), |a, b| Ok((a.0 + b.0, a.1 + b.1)))
}
