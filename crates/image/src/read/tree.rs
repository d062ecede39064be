//! Walking the index of an image.

use std::ops::Range;

use super::packs::Packs;
use crate::format::header::damaged;
use crate::format::node::{self, FANOUT, Leaf, Node, NodeRef, Run, RunKind, leaves_under};
use crate::write::encode::extent_pages;
use crate::{ImageError, Layout, Store};

/// The index of an image.
#[derive(Debug)]
pub(crate) struct Tree {
    store: Store,
    pub(crate) packs: Packs,
    pub(crate) root: Option<NodeRef>,
    level: u8,
    pages: u64,
    page_bytes: usize,
    extent_pages: u8,
}

impl Tree {
    pub(crate) fn new(store: Store, packs: Packs, root: Option<NodeRef>, layout: &Layout) -> Self {
        Self {
            store,
            packs,
            root,
            level: node::root_level(layout.pages()),
            pages: layout.pages(),
            page_bytes: layout.page_bytes(),
            extent_pages: extent_pages(layout.page_size()),
        }
    }

    /// The level of the root.
    pub(crate) const fn level(&self) -> u8 {
        self.level
    }

    /// Leaves that the pages of the memory need.
    pub(crate) const fn leaves(&self) -> u64 {
        self.pages.div_ceil(FANOUT)
    }

    /// The leaf `number`; `None` if its pages are zero.
    pub(crate) fn leaf(&self, number: u64) -> Result<Option<Leaf>, ImageError> {
        let mut at = self.root;
        for level in (1..=self.level).rev() {
            let Some(found) = at else { return Ok(None) };
            let child = number / leaves_under(level - 1) % FANOUT;
            at = self.branch(&found, level)?.child(child);
        }
        at.map(|found| self.leaf_at(&found, number)).transpose()
    }

    /// Calls `f` with every leaf of `range` that is not zero, in order.
    pub(crate) fn walk<E: From<ImageError>>(
        &self,
        range: Range<u64>,
        f: &mut dyn FnMut(u64, &Leaf) -> Result<(), E>,
    ) -> Result<(), E> {
        let range = range.start..range.end.min(self.leaves());
        match self.root {
            Some(root) if !range.is_empty() => self.walk_under(&root, self.level, 0, &range, f),
            _ => Ok(()),
        }
    }

    fn walk_under<E: From<ImageError>>(
        &self,
        at: &NodeRef,
        level: u8,
        first: u64,
        range: &Range<u64>,
        f: &mut dyn FnMut(u64, &Leaf) -> Result<(), E>,
    ) -> Result<(), E> {
        if level == 0 {
            return f(first, &self.leaf_at(at, first)?);
        }
        let branch = self.branch(at, level)?;
        let under = leaves_under(level - 1);
        for i in 0..FANOUT {
            let start = first + i * under;
            if start >= range.end {
                break;
            }
            if start + under > range.start
                && let Some(child) = branch.child(i)
            {
                self.walk_under(&child, level - 1, start, range, f)?;
            }
        }
        Ok(())
    }

    pub(crate) fn branch(&self, at: &NodeRef, level: u8) -> Result<node::Branch, ImageError> {
        match self.node(at, level)? {
            Node::Branch(branch) => Ok(branch),
            Node::Leaf(_) => Err(self.wrong(at, "a leaf is where a branch should be".to_owned())),
        }
    }

    /// The leaf `number` at `at`, every run of which is within the memory and as long as its encoding says.
    pub(crate) fn leaf_at(&self, at: &NodeRef, number: u64) -> Result<Leaf, ImageError> {
        let Node::Leaf(leaf) = self.node(at, 0)? else {
            return Err(self.wrong(at, "a branch is where a leaf should be".to_owned()));
        };
        let left = self.pages.saturating_sub(number.saturating_mul(FANOUT));
        let wrong = leaf.runs().find(|run| !self.is_possible(run, left));
        match wrong {
            None => Ok(leaf),
            Some(run) => {
                Err(self.wrong(at, format!("leaf {number} of the index has an impossible run {run:?}")))
            }
        }
    }

    fn is_possible(&self, run: &Run, left: u64) -> bool {
        let RunKind::Stored { extent, .. } = run.kind else {
            return u64::from(run.first + run.pages) <= left;
        };
        let full = u64::from(extent.pages) * self.page_bytes as u64;
        let len = match extent.encoding {
            node::Encoding::Raw => u64::from(extent.len) == full,
            node::Encoding::Zstd => u64::from(extent.len) < full,
        };
        len && u64::from(run.first + run.pages) <= left && extent.pages <= self.extent_pages
    }

    /// The node at `at`, whose bytes have its hash.
    fn node(&self, at: &NodeRef, level: u8) -> Result<Node, ImageError> {
        let cached = self.store.nodes().get(&at.hash).filter(|node| match node {
            Node::Leaf(leaf) => level == 0 && leaf.bytes().len() == at.len as usize,
            Node::Branch(branch) => {
                branch.bytes().first() == Some(&level) && branch.bytes().len() == at.len as usize
            }
        });
        if let Some(node) = cached {
            return Ok(node);
        }
        let mut bytes = vec![0; at.len as usize];
        self.packs.read_near(at.pack, at.offset, &mut bytes)?;
        if node::hash(&bytes) != at.hash {
            return Err(self.wrong(at, "the index does not have the hash that is recorded of it".to_owned()));
        }
        let node = Node::decode(bytes.into(), level).map_err(|what| self.wrong(at, what))?;
        self.store.nodes().insert(at.hash, node.clone());
        Ok(node)
    }

    fn wrong(&self, at: &NodeRef, what: String) -> ImageError {
        damaged(&self.packs.name_of(at.pack), format!("{what}, at byte {}", at.offset))
    }
}
