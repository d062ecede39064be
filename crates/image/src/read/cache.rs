//! Nodes of indexes that were read or written lately.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::format::node::{Hash, Node};

/// Parts that are locked by themselves.
const SHARDS: usize = 16;
/// Nodes of a part; with 64 KiB of the largest nodes in all, some 50 MiB.
const MAX_NODES: usize = 1024;

/// Nodes by their hashes, which say all of their bytes.
#[derive(Debug, Default)]
pub(crate) struct NodeCache {
    shards: [Mutex<HashMap<Hash, Node>>; SHARDS],
}

impl NodeCache {
    pub(crate) fn get(&self, hash: &Hash) -> Option<Node> {
        self.shard(hash).get(hash).cloned()
    }

    pub(crate) fn insert(&self, hash: Hash, node: Node) {
        let mut shard = self.shard(&hash);
        if shard.len() >= MAX_NODES {
            // What is in use comes back; to know what is would cost more.
            shard.clear();
        }
        shard.insert(hash, node);
    }

    fn shard(&self, hash: &Hash) -> std::sync::MutexGuard<'_, HashMap<Hash, Node>> {
        self.shards[usize::from(hash[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
