//! The table at the end of a pack: what lies in it, block by block, and the hash of each.
//!
//! Forty bytes a block: kind `u8`, three zero bytes, length `u32`, leaf `u64`, pages `u64`, and sixteen bytes of
//! BLAKE3. The blocks tile the pack between its header and the table, so that their offsets are the sums of the
//! lengths before. The BLAKE3 of the table is in the metadata of every image that uses the pack.

use super::header;
use super::node::{Encoding, Hash};

/// Bytes of an entry.
pub(crate) const ENTRY: usize = 40;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// An extent, and what pages of which leaf it holds: bit `i` of `pages` is the leaf's page `i`.
    Extent { encoding: Encoding, leaf: u64, pages: u64 },
    /// Nodes of the index, one behind the other.
    Index,
    /// A part of the machine state.
    State,
}

/// A stretch of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) kind: BlockKind,
    pub(crate) len: u32,
    pub(crate) hash: Hash,
}

const INDEX: u8 = 3;
const STATE: u8 = 4;

/// The bytes of the table.
pub(crate) fn encode(blocks: &[Block]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blocks.len() * ENTRY);
    for block in blocks {
        let (kind, leaf, pages) = match block.kind {
            BlockKind::Extent { encoding, leaf, pages } => (encoding.code(), leaf, pages),
            BlockKind::Index => (INDEX, 0, 0),
            BlockKind::State => (STATE, 0, 0),
        };
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&block.len.to_le_bytes());
        out.extend_from_slice(&leaf.to_le_bytes());
        out.extend_from_slice(&pages.to_le_bytes());
        out.extend_from_slice(&block.hash);
    }
    out
}

/// The blocks in the table `bytes` of a pack of `pack_len` bytes, or what is wrong with it.
pub(crate) fn decode(bytes: &[u8], pack_len: u64) -> Result<Vec<Block>, String> {
    let (entries, rest) = bytes.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return Err(format!("its table has {} bytes, which are no whole entries", bytes.len()));
    }
    let mut blocks = Vec::with_capacity(entries.len());
    let mut end = header::LEN as u64 + bytes.len() as u64;
    for (i, entry) in entries.iter().enumerate() {
        let block = entry_of(entry).ok_or_else(|| format!("block {i} of its table is impossible"))?;
        end += u64::from(block.len);
        blocks.push(block);
    }
    if end != pack_len {
        return Err(format!("its blocks and its table make {end} bytes, but it has {pack_len}"));
    }
    Ok(blocks)
}

fn entry_of(entry: &[u8; ENTRY]) -> Option<Block> {
    let [kind, 0, 0, 0] = *entry.first_chunk::<4>()? else { return None };
    let len = u32::from_le_bytes(*entry[4..].first_chunk()?);
    let leaf = u64::from_le_bytes(*entry[8..].first_chunk()?);
    let pages = u64::from_le_bytes(*entry[16..].first_chunk()?);
    let hash = *entry[24..].first_chunk()?;
    let kind = match (kind, leaf, pages) {
        (INDEX, 0, 0) => BlockKind::Index,
        (STATE, 0, 0) => BlockKind::State,
        (code, leaf, pages) if pages != 0 => {
            BlockKind::Extent { encoding: Encoding::from_code(code)?, leaf, pages }
        }
        _ => return None,
    };
    (len != 0 || kind == BlockKind::State).then_some(Block { kind, len, hash })
}
