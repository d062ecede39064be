//! Reading the pages of the parent that are stored again.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use super::batch::Group;
use super::output::Output;
use crate::format::node::{FANOUT, Leaf, Run};
use crate::read::restore::{self, Piece};
use crate::{Image, ImageError, RestoreError};

/// Bytes that are gathered for a batch: what is more stays where it is until the next image.
const BYTES: usize = 8 << 20;

/// Gathers for each of `groups` what it wants, in order, until there is no more room, into `bytes`. If the parent cannot be
/// read, nothing is gathered: the image is as right without.
pub(super) fn gather(parent: &Image, groups: &mut [&mut (&Group, &mut Output)], bytes: &mut Vec<u8>) {
    let page_bytes = parent.layout().page_bytes();
    let (mut len, mut pieces, mut places) = (0, Vec::new(), Vec::new());
    for (group, output) in &mut *groups {
        let Some(leaf) = output.leaf.take() else { continue };
        let need = output.gathered.len() * page_bytes;
        if len + need > BYTES {
            output.gathered.clear();
            continue;
        }
        for page in &mut output.gathered {
            page.at = len;
            places.push((group.leaf * FANOUT + u64::from(page.page), len));
            len += page_bytes;
        }
        let wanted = output.gathered.iter().fold(0u64, |map, g| map | 1 << g.page);
        pieces.extend(runs(&leaf, wanted).map(|run| (group.leaf * FANOUT, leaf.clone(), run)));
    }
    if pieces.is_empty() {
        return;
    }
    bytes.resize(len, 0);
    // Groups of one leaf may come more than once.
    places.sort_unstable();
    if let Err(error) = read(parent, pieces, &places, bytes) {
        tracing::warn!(parent = %parent.id(), %error, "pages of the parent were left where they are");
        groups.iter_mut().for_each(|(_, output)| output.gathered.clear());
    }
}

/// The pages `wanted` of `leaf`, one by one.
fn runs(leaf: &Leaf, wanted: u64) -> impl Iterator<Item = Run> {
    leaf.runs().flat_map(move |run| {
        let pages = (run.first..run.first + run.pages).filter(move |page| wanted >> page & 1 == 1);
        pages.filter_map(move |page| run.cut(page, page + 1))
    })
}

/// Reads each page to all of its `places`: a number, and where its bytes belong.
fn read(
    parent: &Image,
    pieces: Vec<Piece>,
    places: &[(u64, usize)],
    bytes: &mut [u8],
) -> Result<(), ImageError> {
    let bytes = Mutex::new(bytes);
    let sink = |slot, offset, page: &[u8]| {
        let Some(number) = parent.layout().number(slot, offset, 1) else { return Ok(()) };
        let from = places.partition_point(|(other, _)| *other < number);
        let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, at) in places[from..].iter().take_while(|(other, _)| *other == number) {
            bytes[*at..at + page.len()].copy_from_slice(page);
        }
        Ok::<_, Infallible>(())
    };
    match restore::run(parent, pieces, &sink) {
        Ok(_) => Ok(()),
        Err(RestoreError::Image(error)) => Err(error),
        Err(RestoreError::Sink { source, .. }) => match source {},
    }
}
