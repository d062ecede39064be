//! Removing images, and what nobody needs any more.

use std::collections::{HashMap, HashSet};
use std::io;

use crate::store::Entry;
use crate::{ImageId, RemoveError, Removed, Store};

impl Store {
    /// Removes images: their metadata, then the packs that no other image needs. Looks at no lineage: an image whose
    /// parent was removed is as whole as before.
    ///
    /// # Errors
    /// An image that is not there, before anything was removed; else the system's refusal.
    pub fn remove(&self, ids: &[ImageId]) -> Result<Removed, RemoveError> {
        let entries = self.removable()?;
        let mut chosen: Vec<&Entry> = Vec::new();
        for id in ids {
            match entries.iter().find(|e| e.id == *id) {
                Some(entry) if !chosen.contains(&entry) => chosen.push(entry),
                Some(_) => {}
                None => {
                    let store = self.location().to_owned();
                    return Err(RemoveError::NoSuchImage { id: *id, store });
                }
            }
        }
        let mut removed = Removed::default();
        for entry in chosen {
            self.backend().delete(&entry.key).map_err(|e| self.refused("removing", &entry.key, e))?;
            removed.images += 1;
            removed.bytes += entry.len;
        }
        let swept = self.sweep()?;
        removed.packs = swept.packs;
        removed.bytes += swept.bytes;
        removed.writers = swept.writers;
        Ok(removed)
    }

    /// Removes packs that no image needs and no living writer makes, and the claims of dead writers.
    ///
    /// # Errors
    /// A damaged image, of which nobody can say which packs it needs; or the system's refusal. Nothing that is needed
    /// was removed.
    pub fn sweep(&self) -> Result<Removed, RemoveError> {
        // The order matters. A pack that is listed belongs to a writer that had claimed its place before; if its claim is
        // not among those read next, the writer has finished or given up; if it has finished, its metadata is among those
        // read last.
        let packs = self.backend().list("packs/").map_err(|e| self.refused("listing", "packs", e))?;
        let claims = self.backend().claims().map_err(|e| self.refused("listing", "writers", e))?;
        let mut used: HashMap<ImageId, HashSet<String>> = HashMap::new();
        for entry in self.removable()? {
            match self.meta(&entry) {
                Ok((meta, _)) => {
                    used.insert(entry.id, meta.packs.iter().map(|p| p.key()).collect());
                }
                Err(_) if self.is_gone(&entry.key) => {}
                Err(error) => return Err(RemoveError::Damaged { name: entry.id.to_hex(), error }),
            }
        }
        let alive: HashSet<&str> = claims.iter().filter(|c| c.alive).map(|c| c.writer.as_str()).collect();
        let mut removed = Removed::default();
        let orphaned = claims.iter().filter(|c| c.alive && !c.bytes.is_empty()).any(|claim| {
            let parent = std::str::from_utf8(&claim.bytes).ok().and_then(|t| t.parse::<ImageId>().ok());
            parent.is_none_or(|parent| !used.contains_key(&parent))
        });
        if !orphaned {
            let used: HashSet<&String> = used.values().flatten().collect();
            for pack in packs {
                let writer = pack.key.strip_prefix("packs/").and_then(|n| n.split_once('-')).map(|n| n.0);
                // Somebody else's file is left alone.
                let Some(writer) = writer.filter(|_| is_pack(&pack.key)) else { continue };
                if used.contains(&pack.key) || alive.contains(writer) {
                    continue;
                }
                self.backend().delete(&pack.key).map_err(|e| self.refused("removing", &pack.key, e))?;
                removed.packs += 1;
                removed.bytes += pack.len;
            }
        }
        // Else a writer that is at work needs packs of an image that was removed: what those are is not known, so that all
        // packs stay until the writer has finished.
        for claim in claims.iter().filter(|c| !c.alive && !orphaned) {
            self.backend().bury(&claim.writer).map_err(|e| self.refused("removing", "writers", e))?;
            tracing::info!(writer = claim.writer, "removed what a killed writer left");
            removed.writers += 1;
        }
        Ok(removed)
    }

    fn removable(&self) -> Result<Vec<Entry>, RemoveError> {
        Ok(self.entries().map_err(|e| self.refused("listing", "images", e))?.0)
    }

    fn refused(&self, doing: &'static str, key: &str, source: io::Error) -> RemoveError {
        RemoveError::Io { doing, at: self.name(key), source }
    }
}

fn is_pack(key: &str) -> bool {
    key.strip_prefix("packs/").is_some_and(crate::format::meta::is_pack_name)
}
