//! Pages on their way from [`put`](crate::Writer::put) to a pack.

use std::ops::Range;

use rayon::prelude::*;

use super::encode::extent_pages;
use super::gather::gather;
use super::output::{Output, Setting, stretches};
use super::upkeep::Upkeep;
use crate::aligned::Aligned;
use crate::format::node::FANOUT;
use crate::{Image, ImageError, Layout};

/// Bytes of pages in a full batch: enough for every core to have several leaves.
const BYTES: usize = 4 << 20;

/// Entries after which a batch of scattered or zero pages is sent on.
const MAX_ITEMS: usize = 1 << 14;

/// Groups after which a batch is sent on if there is a parent: each may have as many pages again of the parent's stored
/// beside it.
const MAX_GROUPS: usize = 256;

/// Consecutive puts of pages of one leaf, in the order of their numbers.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) leaf: u64,
    /// Which pages of the leaf.
    pub(crate) pages: u64,
    /// Where their bytes begin.
    pub(super) at: usize,
}

/// What was put, in order.
#[derive(Debug)]
pub(crate) enum Item {
    Pages(Group),
    /// Pages, counted through, that are zero.
    Zero(Range<u64>),
}

/// Pages put, then encoded, then written; its memory is used again for later ones.
#[derive(Debug)]
pub(crate) struct Batch {
    page_bytes: usize,
    extent_pages: usize,
    data: Aligned,
    /// Whether there is a parent.
    increment: bool,
    items: Vec<Item>,
    outputs: Vec<Output>,
    /// Pages of the parent that are stored again.
    gathered: Vec<u8>,
}

impl Batch {
    /// With the first byte of what is put at `phase` in memory.
    pub(crate) fn new(layout: &Layout, increment: bool, phase: usize) -> Self {
        Self {
            page_bytes: layout.page_bytes(),
            extent_pages: extent_pages(layout.page_size()).into(),
            increment,
            data: Aligned::new(BYTES.max(layout.page_bytes()), phase),
            items: Vec::new(),
            outputs: Vec::new(),
            gathered: Vec::new(),
        }
    }

    /// Empties the batch. Where its bytes will lie at `phase` in a pack, too, they can go to a disk from where they are.
    pub(crate) fn clear(&mut self, phase: usize) {
        self.data.restart(phase);
        self.items.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        let items = if self.increment { MAX_GROUPS } else { MAX_ITEMS };
        self.data.room() < self.page_bytes || self.items.len() >= items
    }

    /// Takes pages from the front of `bytes`, the first of them number `first`, until the batch is full; returns how
    /// many, and the rest of the bytes.
    pub(crate) fn fill<'b>(&mut self, first: u64, bytes: &'b [u8]) -> (u64, &'b [u8]) {
        let (mut number, mut rest) = (first, bytes);
        while !rest.is_empty() && !self.is_full() {
            let in_leaf = number % FANOUT;
            let room = self.data.room();
            let pages = (FANOUT - in_leaf).min((room.min(rest.len()) / self.page_bytes) as u64);
            let (now, behind) = rest.split_at(usize::try_from(pages).unwrap_or_default() * self.page_bytes);
            self.enter(number / FANOUT, bits(in_leaf, pages));
            self.data.extend(now);
            (number, rest) = (number + pages, behind);
        }
        (number - first, rest)
    }

    /// Takes a run of zero pages.
    pub(crate) fn fill_zero(&mut self, pages: Range<u64>) {
        match self.items.last_mut() {
            Some(Item::Zero(last)) if last.end == pages.start => last.end = pages.end,
            _ => self.items.push(Item::Zero(pages)),
        }
    }

    fn enter(&mut self, leaf: u64, pages: u64) {
        match self.items.last_mut() {
            // Behind those that the group has, so that the order of the bytes is that of the pages.
            Some(Item::Pages(group))
                if group.leaf == leaf && pages.trailing_zeros() >= 64 - group.pages.leading_zeros() =>
            {
                group.pages |= pages;
            }
            _ => self.items.push(Item::Pages(Group { leaf, pages, at: self.data.len() })),
        }
    }

    /// Finds out what becomes of every page, and compresses what is to be stored, on all cores.
    pub(crate) fn encode(
        &mut self,
        parent: Option<&Image>,
        seed: u64,
        upkeep: &mut Upkeep,
    ) -> Result<(), ImageError> {
        let (page_bytes, extent_pages) = (self.page_bytes, self.extent_pages);
        let setting = Setting { page_bytes, extent_pages, parent, seed, upkeep };
        self.outputs.resize_with(self.items.len().max(self.outputs.len()), Output::default);
        let data = &*self.data;
        self.items.par_iter().zip(&mut self.outputs).for_each(|(item, output)| {
            if let Item::Pages(group) = item {
                match output.look(group, data, &setting) {
                    // What waits for pages of the parent is encoded with them.
                    Ok(()) if output.leaf.is_none() => output.pack(data, &[], &setting),
                    Ok(()) => {}
                    Err(error) => output.error = Some(error),
                }
            }
        });
        let groups = self.items.iter().zip(&mut self.outputs).filter_map(|(item, output)| match item {
            Item::Pages(group) => Some((group, output)),
            Item::Zero(_) => None,
        });
        let mut groups: Vec<(&Group, &mut Output)> = groups.collect();
        if let Some(error) = groups.iter_mut().find_map(|(_, output)| output.error.take()) {
            return Err(error);
        }
        let Some(parent) = parent else { return Ok(()) };
        let mut waiting: Vec<_> = groups.iter_mut().filter(|(_, output)| output.leaf.is_some()).collect();
        if !waiting.is_empty() {
            gather(parent, &mut waiting, &mut self.gathered);
            let gathered = &self.gathered;
            waiting.par_iter_mut().for_each(|(_, output)| output.pack(data, gathered, &setting));
        }
        for (_, output) in &groups {
            for (first, prospect) in &output.prospects {
                upkeep.note(*first, prospect, output.is_whole(*first, extent_pages));
            }
        }
        Ok(())
    }

    /// What was put, in order, with what became of it.
    pub(crate) fn items(&self) -> impl Iterator<Item = (&Item, &Output)> {
        self.items.iter().zip(&self.outputs)
    }

    /// Hands the bytes of all extents over, in order, in large pieces.
    pub(crate) fn stored<E>(&self, f: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let groups = self.items().filter(|(item, _)| matches!(item, Item::Pages(_)));
        stretches(groups.map(|(_, output)| output), &self.data, f)
    }
}

/// `count` bits from `first` on.
fn bits(first: u64, count: u64) -> u64 {
    (u64::MAX >> (64 - count)) << first
}
