//! What differs between two images.

use ringmark_dirty::DirtyPages;

use super::image::Image;
use crate::ImageError;
use crate::format::node::{FANOUT, Leaf, NodeRef, Place, leaves_under};

struct Comparison<'a> {
    one: &'a Image,
    two: &'a Image,
    /// Whether hashes of pages can be compared.
    same_seed: bool,
    found: DirtyPages,
    buffers: (Vec<u8>, Vec<u8>),
}

pub(super) fn between(one: &Image, two: &Image) -> Result<DirtyPages, ImageError> {
    if one.layout() != two.layout() {
        return Err(ImageError::AnotherLayout { one: one.id(), two: two.id() });
    }
    let page = one.layout().page_bytes();
    let mut comparison = Comparison {
        one,
        two,
        same_seed: one.meta().seed == two.meta().seed,
        found: DirtyPages::new(one.layout().slots()),
        buffers: (vec![0; page], vec![0; page]),
    };
    comparison.compare(one.tree().root, two.tree().root, one.tree().level(), 0)?;
    Ok(comparison.found)
}

impl Comparison<'_> {
    /// Compares the nodes of `level` whose first leaf is `first`.
    fn compare(
        &mut self,
        one: Option<NodeRef>,
        two: Option<NodeRef>,
        level: u8,
        first: u64,
    ) -> Result<(), ImageError> {
        // Nodes of the same hash are the same bytes, down to the hashes of the pages.
        if one.map(|n| n.hash) == two.map(|n| n.hash) && (self.same_seed || one.is_none()) {
            return Ok(());
        }
        if level == 0 {
            let places = |image: &Image, at: Option<NodeRef>| -> Result<[Place; 64], ImageError> {
                let leaf = at.map(|at| image.tree().leaf_at(&at, first)).transpose()?;
                Ok(leaf.as_ref().map_or([Place::Zero; 64], Leaf::places))
            };
            let (ones, twos) = (places(self.one, one)?, places(self.two, two)?);
            for (i, (a, b)) in (0..).zip(ones.iter().zip(&twos)) {
                self.page(first * FANOUT + i, a, b)?;
            }
            return Ok(());
        }
        let branch = |image: &Image, at: Option<NodeRef>| -> Result<[Option<NodeRef>; 64], ImageError> {
            Ok(at.map(|at| image.tree().branch(&at, level)).transpose()?.map_or([None; 64], |b| b.children()))
        };
        let (ones, twos) = (branch(self.one, one)?, branch(self.two, two)?);
        let under = leaves_under(level - 1);
        for (i, (a, b)) in (0..).zip(ones.into_iter().zip(twos)) {
            let start = first + i * under;
            if start < self.one.tree().leaves() {
                self.compare(a, b, level - 1, start)?;
            }
        }
        Ok(())
    }

    fn page(&mut self, number: u64, one: &Place, two: &Place) -> Result<(), ImageError> {
        let Some((slot, offset, _)) = self.one.layout().place(number) else { return Ok(()) };
        let same = match (one, two) {
            (Place::Zero, Place::Zero) => true,
            (Place::Repeated(a), Place::Repeated(b)) => a == b,
            (Place::Stored { hash: a, .. }, Place::Stored { hash: b, .. }) if self.same_seed => a == b,
            (Place::Stored { .. }, Place::Stored { .. }) => {
                let (a, b) = &mut self.buffers;
                self.one.page(slot, offset, a)?;
                self.two.page(slot, offset, b)?;
                a == b
            }
            _ => false,
        };
        if !same {
            // The page is of the layout that the set was made for.
            let _ = self.found.insert(slot, offset);
        }
        Ok(())
    }
}
