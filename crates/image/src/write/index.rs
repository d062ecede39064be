//! The index of a new image: that of its parent, with what was put.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringmark_dirty::mutant::{self, Mutant};

use super::pack::PackWriter;
use super::table::{PageTable, Put, Puts};
use crate::format::meta::PackRecord;
use crate::format::node::{self, Branch, Extent, FANOUT, Leaf, Node, NodeRef, Place, RunKind, leaves_under};
use crate::format::spread::Spread;
use crate::{Image, ImageError, Store, WriteError};

/// Bytes of nodes that become one block of a pack.
const BLOCK: usize = 1 << 20;

/// What an image has in a pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) pages: u64,
    pub(crate) nodes: u64,
}

/// Builds the index of an image.
#[derive(Debug)]
pub(crate) struct IndexBuilder<'a> {
    pub(crate) store: &'a Store,
    pub(crate) parent: Option<&'a Image>,
    pub(crate) table: &'a PageTable,
    pub(crate) extents: &'a [Extent],
    pub(crate) packs: &'a mut PackWriter,
    usage: BTreeMap<u32, Usage>,
    spread: Spread,
    /// Pages of a full extent.
    group: usize,
    nodes: Vec<u8>,
}

/// The index of an image, built.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) root: Option<NodeRef>,
    /// What the image has in each pack.
    pub(crate) usage: BTreeMap<u32, Usage>,
    pub(crate) spread: Spread,
}

impl<'a> IndexBuilder<'a> {
    pub(crate) fn new(
        store: &'a Store,
        parent: Option<&'a Image>,
        table: &'a PageTable,
        extents: &'a [Extent],
        packs: &'a mut PackWriter,
        group: usize,
    ) -> Self {
        let of = |p: &PackRecord| (p.number, Usage { pages: p.pages, nodes: p.nodes });
        let usage = parent.iter().flat_map(|p| p.meta().packs.iter().map(of)).collect();
        let spread = parent.map(|p| p.meta().spread).unwrap_or_default();
        Self { store, parent, table, extents, packs, usage, spread, group, nodes: Vec::new() }
    }

    /// Writes the nodes that differ from those of the parent, of a memory of `pages` pages.
    pub(crate) fn build(mut self, pages: u64) -> Result<Index, WriteError> {
        let old = self.parent.and_then(|p| p.tree().root);
        let root = self.node(node::root_level(pages), 0, old)?;
        self.flush()?;
        Ok(Index { root, usage: self.usage, spread: self.spread })
    }

    /// The node of `level` whose first leaf is `first`; `old` is the parent's.
    fn node(&mut self, level: u8, first: u64, old: Option<NodeRef>) -> Result<Option<NodeRef>, WriteError> {
        let leaves = first..first + leaves_under(level);
        if !self.table.has_explicit(&leaves) {
            match self.table.zeroed(&leaves) {
                (true, _) if mutant::active(Mutant::ZeroPageSkipped) => return Ok(old),
                (true, _) => {
                    self.forget(level, first, old)?;
                    return Ok(None);
                }
                (false, false) => return Ok(old),
                (false, true) => {}
            }
        }
        if level == 0 {
            return match self.table.explicit(first) {
                Some(puts) => self.leaf(first, puts, old),
                None => Ok(old),
            };
        }
        let before = match old {
            Some(at) => self.read(|image| image.tree().branch(&at, level))?.children(),
            None => [None; 64],
        };
        let mut children = before;
        let under = leaves_under(level - 1);
        for (i, child) in (0..).zip(&mut children) {
            *child = self.node(level - 1, first + i * under, *child)?;
        }
        if children == before {
            return Ok(old);
        }
        self.unuse_node(old);
        Branch::encode(level, &children).map(|bytes| self.write(bytes, level)).transpose()
    }

    fn leaf(
        &mut self,
        number: u64,
        puts: &Puts,
        old: Option<NodeRef>,
    ) -> Result<Option<NodeRef>, WriteError> {
        let before = old.map(|at| self.read(|image| image.tree().leaf_at(&at, number))).transpose()?;
        let old_places = before.as_ref().map_or([Place::Zero; 64], Leaf::places);
        let mut places = old_places;
        for (place, put) in places.iter_mut().zip(puts) {
            match *put {
                Put::Nothing | Put::Unchanged => {}
                _ if mutant::active(Mutant::OlderLayerWins) && *place != Place::Zero => {}
                Put::Zero if mutant::active(Mutant::ZeroPageSkipped) => {}
                Put::Zero => *place = Place::Zero,
                Put::Repeated(word) => *place = Place::Repeated(word),
                Put::Stored { extent, skip, hash } | Put::Gathered { extent, skip, hash, .. } => {
                    if let Some(extent) = self.extents.get(extent as usize) {
                        *place = Place::Stored { extent: *extent, skip, hash };
                    }
                }
            }
        }
        if places == old_places {
            return Ok(old);
        }
        for (place, add) in old_places.iter().map(|p| (p, false)).chain(places.iter().map(|p| (p, true))) {
            if let Place::Stored { extent, .. } = place {
                let pages = &mut self.usage.entry(extent.pack).or_default().pages;
                *pages = if add { *pages + 1 } else { pages.saturating_sub(1) };
            }
        }
        let spread = |places: &[Place; 64]| Spread::of(places, self.group);
        self.spread = self.spread.exchange(&spread(&old_places), &spread(&places));
        self.unuse_node(old);
        Leaf::encode(&places).map(|bytes| self.write(bytes, 0)).transpose()
    }

    /// The parent's nodes from `old` on are no part of the image.
    fn forget(&mut self, level: u8, first: u64, old: Option<NodeRef>) -> Result<(), WriteError> {
        let Some(at) = old else { return Ok(()) };
        self.unuse_node(old);
        if level == 0 {
            let leaf = self.read(|image| image.tree().leaf_at(&at, first))?;
            let gone = Spread::of(&leaf.places(), self.group);
            self.spread = self.spread.exchange(&gone, &Spread::default());
            for run in leaf.runs() {
                if let RunKind::Stored { extent, .. } = run.kind {
                    let pages = &mut self.usage.entry(extent.pack).or_default().pages;
                    *pages = pages.saturating_sub(run.pages.into());
                }
            }
            return Ok(());
        }
        let branch = self.read(|image| image.tree().branch(&at, level))?;
        for i in 0..FANOUT {
            self.forget(level - 1, first + i * leaves_under(level - 1), branch.child(i))?;
        }
        Ok(())
    }

    fn unuse_node(&mut self, old: Option<NodeRef>) {
        if let Some(old) = old {
            let nodes = &mut self.usage.entry(old.pack).or_default().nodes;
            *nodes = nodes.saturating_sub(1);
        }
    }

    fn read<T>(&self, f: impl FnOnce(&Image) -> Result<T, ImageError>) -> Result<T, WriteError> {
        match self.parent {
            Some(parent) => f(parent).map_err(|e| WriteError::Parent(Arc::new(e))),
            // Only a parent has nodes to read.
            None => {
                Err(WriteError::io("reading", self.store.location(), std::io::ErrorKind::NotFound.into(), 0))
            }
        }
    }

    fn write(&mut self, bytes: Vec<u8>, level: u8) -> Result<NodeRef, WriteError> {
        let (pack, offset) = self.packs.position()?;
        let offset = offset + self.nodes.len() as u64;
        self.nodes.extend_from_slice(&bytes);
        self.usage.entry(pack).or_default().nodes += 1;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let at = NodeRef { pack, len, offset, hash: node::hash(&bytes) };
        if let Ok(node) = Node::decode(bytes.into(), level) {
            // The next image will ask for it.
            self.store.nodes().insert(at.hash, node);
        }
        if self.nodes.len() >= BLOCK {
            self.flush()?;
        }
        Ok(at)
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        if !self.nodes.is_empty() {
            self.packs.append_index(&self.nodes)?;
            self.nodes.clear();
            self.packs.roll()?;
        }
        Ok(())
    }
}
