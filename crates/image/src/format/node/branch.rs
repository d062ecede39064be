//! A node that names nodes.
//!
//! Level `u8`, seven zero bytes, and a bitmap `u64` of the children that are not zero throughout; then thirty-two bytes
//! for each of these: pack `u32`, length `u32`, offset `u64`, and sixteen bytes of BLAKE3.

use std::sync::Arc;

use super::{MAX_NODE, NodeRef, hash_at, u32_at, u64_at};

const HEAD: usize = 16;
const CHILD: usize = 32;

/// A branch, checked.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    bytes: Arc<[u8]>,
}

impl Branch {
    pub(super) fn decode(bytes: Arc<[u8]>, level: u8) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("a branch of the index {what}"));
        if bytes.len() < HEAD || bytes[1..8] != [0; 7] {
            return wrong("has no head");
        }
        let children = u64_at(&bytes, 8).count_ones() as usize;
        if children == 0 || bytes.len() != HEAD + children * CHILD {
            return wrong("has another length than its children need");
        }
        let branch = Self { bytes };
        for i in 0..super::FANOUT {
            if let Some(child) = branch.child(i)
                && !(1..=MAX_NODE).contains(&(child.len as usize))
            {
                return Err(format!("a branch of level {level} names a node of {} bytes", child.len));
            }
        }
        Ok(branch)
    }

    /// The bytes of a branch of `level`; `None` if all its children are zero.
    pub(crate) fn encode(level: u8, children: &[Option<NodeRef>; 64]) -> Option<Vec<u8>> {
        let bitmap = (0..).zip(children).fold(0u64, |map, (i, c)| map | u64::from(c.is_some()) << i);
        if bitmap == 0 {
            return None;
        }
        let mut out = Vec::with_capacity(HEAD + bitmap.count_ones() as usize * CHILD);
        out.extend_from_slice(&[level, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&bitmap.to_le_bytes());
        for child in children.iter().flatten() {
            out.extend_from_slice(&child.pack.to_le_bytes());
            out.extend_from_slice(&child.len.to_le_bytes());
            out.extend_from_slice(&child.offset.to_le_bytes());
            out.extend_from_slice(&child.hash);
        }
        Some(out)
    }

    /// Child `i`, less than sixty-four; `None` if all pages under it are zero.
    pub(crate) fn child(&self, i: u64) -> Option<NodeRef> {
        let bitmap = u64_at(&self.bytes, 8);
        let bit = 1u64.checked_shl(u32::try_from(i).ok()?)?;
        if bitmap & bit == 0 {
            return None;
        }
        let at = HEAD + (bitmap & (bit - 1)).count_ones() as usize * CHILD;
        Some(NodeRef {
            pack: u32_at(&self.bytes, at),
            len: u32_at(&self.bytes, at + 4),
            offset: u64_at(&self.bytes, at + 8),
            hash: hash_at(&self.bytes, at + 16),
        })
    }

    /// All children.
    pub(crate) fn children(&self) -> [Option<NodeRef>; 64] {
        let mut children = [None; 64];
        for (i, child) in (0..).zip(&mut children) {
            *child = self.child(i);
        }
        children
    }

    pub(crate) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }
}
