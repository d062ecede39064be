//! The metadata of an image: the object whose BLAKE3 is the image's identity.
//!
//! A header, then one CBOR map. Fields that this version does not know are refused: what is not understood could be
//! what matters.

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use serde::{Deserialize, Serialize};

use super::header::{self, damaged};
use super::node::NodeRef;
use super::spread::Spread;
use super::{blocks, node};
use crate::{ImageError, ImageId, Layout};

mod record;

use record::Record;

/// The most bytes of metadata.
pub(crate) const MAX_LEN: u64 = 16 << 20;
/// The most parts of machine state.
pub(crate) const MAX_STATES: usize = 1024;
/// The most bytes of one part.
pub(crate) const MAX_STATE: u64 = 256 << 20;
/// The most packs of an image.
pub(crate) const MAX_PACKS: usize = 1 << 16;
/// The most bytes of a machine's name.
const MAX_NAME: usize = 255;

/// Thirty-two bytes of BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// A pack that an image needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackRecord {
    /// By which the index names it.
    pub(crate) number: u32,
    /// Behind `packs/` in its key.
    pub(crate) name: String,
    pub(crate) len: u64,
    /// Bytes of the table of blocks at its end.
    pub(crate) table_len: u64,
    /// BLAKE3 of that table.
    pub(crate) table: Digest,
    /// Pages of the image that are in it.
    pub(crate) pages: u64,
    /// Nodes of the image's index that are in it.
    pub(crate) nodes: u64,
}

impl PackRecord {
    /// Its key.
    pub(crate) fn key(&self) -> String {
        format!("packs/{}", self.name)
    }

    /// One past the last byte of its blocks.
    pub(crate) const fn blocks_end(&self) -> u64 {
        self.len - self.table_len
    }
}

/// A part of the machine state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateRecord {
    pub(crate) name: String,
    pub(crate) pack: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) blake3: Digest,
}

/// The metadata of an image, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) vm: String,
    pub(crate) created_ns: u64,
    pub(crate) sequence: u64,
    /// Two images of the same contents at the same instant are still two images.
    pub(crate) nonce: u64,
    pub(crate) parent: Option<ImageId>,
    /// Of the hashes of pages; an increment has that of its parent.
    pub(crate) seed: u64,
    pub(crate) layout: Layout,
    /// Pages that were put, each counted once.
    pub(crate) pages: u64,
    pub(crate) zero_pages: u64,
    pub(crate) repeated_pages: u64,
    pub(crate) unchanged_pages: u64,
    /// Of all pages of the image.
    pub(crate) spread: Spread,
    /// `None` if all of memory is zero.
    pub(crate) root: Option<NodeRef>,
    /// The number of the first pack that was made for this image, and of the first that an increment makes.
    pub(crate) first_pack: u32,
    pub(crate) next_pack: u32,
    /// In the order of their numbers.
    pub(crate) packs: Vec<PackRecord>,
    /// In the order of their names.
    pub(crate) states: Vec<StateRecord>,
}

/// Whether an image can carry `vm` as the name of its machine.
pub(crate) fn is_vm_name(vm: &str) -> bool {
    (1..=MAX_NAME).contains(&vm.len()) && !vm.contains(char::is_control)
}

/// Whether `name` can be that of a state part.
pub(crate) fn is_state_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}

/// Whether `name` can be that of a pack: a writer's sixteen hexadecimal digits, a dash, and a number.
pub(crate) fn is_pack_name(name: &str) -> bool {
    name.split_once('-').is_some_and(|(writer, number)| {
        writer.len() == 16
            && writer.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && (1..=10).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

impl Meta {
    /// The bytes of the metadata.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ciborium::ser::Error<std::io::Error>> {
        let mut bytes = header::encode(header::META).to_vec();
        ciborium::into_writer(&Record::of(self), &mut bytes)?;
        Ok(bytes)
    }

    /// The metadata of image `id` in `bytes`, which are `object`.
    pub(crate) fn read(object: &str, bytes: &[u8], id: ImageId) -> Result<Self, ImageError> {
        header::check(object, bytes, header::META)?;
        if ImageId::of(bytes) != id {
            return Err(damaged(object, format!("its BLAKE3 is not the image's identity {id}")));
        }
        Self::decode(bytes).map_err(|what| damaged(object, what))
    }

    /// The metadata in `bytes`, header included, or what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut body = bytes.get(header::LEN..).ok_or("it has no header")?;
        let record: Record =
            ciborium::from_reader(&mut body).map_err(|e| format!("its body cannot be read: {e}"))?;
        if !body.is_empty() {
            return Err(format!("{} bytes follow its body", body.len()));
        }
        let meta = record.checked()?;
        meta.check_counts()?;
        meta.check_packs()?;
        meta.check_states()?;
        Ok(meta)
    }

    /// The pack of this number.
    pub(crate) fn pack(&self, number: u32) -> Option<&PackRecord> {
        self.packs.binary_search_by_key(&number, |p| p.number).ok().map(|i| &self.packs[i])
    }

    fn check_counts(&self) -> Result<(), String> {
        let parts = [self.zero_pages, self.repeated_pages, self.unchanged_pages];
        let sum = parts.iter().try_fold(0u64, |sum, n| sum.checked_add(*n));
        if self.pages > self.layout.pages() || sum.is_none_or(|sum| sum > self.pages) {
            return Err(format!(
                "it counts {} pages, {parts:?} of them zero, repeated and unchanged, in a memory of {}",
                self.pages,
                self.layout.pages()
            ));
        }
        let Spread { stored, extents, decoded, groups } = self.spread;
        let most = stored.saturating_mul(node::FANOUT);
        let possible = stored <= self.layout.pages()
            && extents.max(groups) <= stored
            && (stored..=most).contains(&decoded)
            && (stored == 0) == (extents == 0 || groups == 0);
        if !possible {
            return Err(format!("it counts pages and extents that cannot be: {:?}", self.spread));
        }
        Ok(())
    }

    fn check_packs(&self) -> Result<(), String> {
        if self.packs.len() > MAX_PACKS {
            return Err(format!("it has {} packs", self.packs.len()));
        }
        if !self.packs.is_sorted_by(|a, b| a.number < b.number) {
            return Err("its packs are not in order".to_owned());
        }
        let last = self.packs.last().map_or(0, |p| p.number);
        if self.first_pack > self.next_pack || (!self.packs.is_empty() && last >= self.next_pack) {
            return Err("the numbers of its packs contradict each other".to_owned());
        }
        for pack in &self.packs {
            let whole = pack.table_len.is_multiple_of(blocks::ENTRY as u64)
                && pack.table_len.checked_add(header::LEN as u64).is_some_and(|least| least <= pack.len);
            if !whole || !is_pack_name(&pack.name) {
                return Err(format!("its pack {:?} of {} bytes is impossible", pack.name, pack.len));
            }
        }
        match &self.root {
            Some(root) if !(1..=node::MAX_NODE).contains(&(root.len as usize)) => {
                Err(format!("the root of its index has {} bytes", root.len))
            }
            _ => Ok(()),
        }
    }

    fn check_states(&self) -> Result<(), String> {
        if self.states.len() > MAX_STATES {
            return Err(format!("it has {} parts of machine state", self.states.len()));
        }
        if !self.states.is_sorted_by(|a, b| a.name < b.name) {
            return Err("its parts of machine state are not in order".to_owned());
        }
        for state in &self.states {
            let end = state.offset.checked_add(state.len);
            let within = self.pack(state.pack).zip(end).is_some_and(|(p, end)| end <= p.blocks_end());
            if !is_state_name(&state.name) || state.len > MAX_STATE || !within {
                return Err(format!(
                    "the machine state {:?} of {} bytes is impossible",
                    state.name, state.len
                ));
            }
        }
        Ok(())
    }
}

/// The layout of `slots`, each a name, a first frame and pages.
fn layout_of(page_size: u64, slots: &[(u32, u64, u64)]) -> Result<Layout, String> {
    let page_size = PageSize::new(page_size).ok_or_else(|| format!("{page_size} is no page size"))?;
    if slots.len() > Layout::MAX_SLOTS {
        return Err(format!("it has {} memslots", slots.len()));
    }
    let slots = slots.iter().map(|&(slot, base, npages)| Memslot {
        id: SlotId::from_raw(slot),
        base: Gfn(base),
        npages,
    });
    let table = SlotTable::new(slots).map_err(|e| e.to_string())?;
    Layout::new(page_size, table).map_err(|e| e.to_string())
}
