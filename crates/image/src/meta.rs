//! The metadata of an image: the file whose BLAKE3 is the image's identity.
//!
//! A header, then one CBOR map. Fields that this version does not know are refused: what is not understood could be
//! what matters.

use std::path::Path;

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use serde::{Deserialize, Serialize};

use crate::header::{self, damaged};
use crate::{ImageError, ImageId, Layout, Summary};

/// The most bytes of a metadata file.
pub(crate) const MAX_LEN: u64 = 2 << 20;
/// The most parts of machine state.
pub(crate) const MAX_STATES: usize = 1024;
/// The most bytes of one part.
pub(crate) const MAX_STATE: u64 = 256 << 20;
/// The most bytes of a machine's name.
const MAX_NAME: usize = 255;

/// The length and the hash of a file of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRecord {
    pub(crate) len: u64,
    #[serde(with = "hex")]
    pub(crate) blake3: blake3::Hash,
}

/// A part of the machine state, in the file `state-<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateRecord {
    pub(crate) name: String,
    pub(crate) file: FileRecord,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotRecord {
    slot: u32,
    base: u64,
    npages: u64,
}

/// The CBOR map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    vm: String,
    created_ns: u64,
    sequence: u64,
    /// Two images of the same contents at the same instant are still two images.
    nonce: u64,
    parent: Option<ImageId>,
    page_size: u64,
    slots: Vec<SlotRecord>,
    pages: u64,
    zero_pages: u64,
    superseded_bytes: u64,
    index: FileRecord,
    pack: FileRecord,
    states: Vec<StateRecord>,
}

/// The metadata of an image, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) vm: String,
    pub(crate) created_ns: u64,
    pub(crate) sequence: u64,
    pub(crate) nonce: u64,
    pub(crate) parent: Option<ImageId>,
    pub(crate) layout: Layout,
    pub(crate) pages: u64,
    pub(crate) zero_pages: u64,
    pub(crate) superseded_bytes: u64,
    pub(crate) index: FileRecord,
    pub(crate) pack: FileRecord,
    /// In the order of their names.
    pub(crate) states: Vec<StateRecord>,
}

/// Whether an image can carry `vm` as the name of its machine.
pub(crate) fn is_vm_name(vm: &str) -> bool {
    (1..=MAX_NAME).contains(&vm.len()) && !vm.contains(char::is_control)
}

/// Whether `name` can be that of a state part: it becomes the end of a file name.
pub(crate) fn is_state_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}

/// The file of the state part `name`.
pub(crate) fn state_file(name: &str) -> String {
    format!("state-{name}")
}

impl Meta {
    /// The bytes of the metadata file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ciborium::ser::Error<std::io::Error>> {
        let record = Record {
            vm: self.vm.clone(),
            created_ns: self.created_ns,
            sequence: self.sequence,
            nonce: self.nonce,
            parent: self.parent,
            page_size: self.layout.page_size().bytes(),
            slots: self
                .layout
                .slots()
                .iter()
                .map(|s| SlotRecord { slot: s.id.raw(), base: s.base.0, npages: s.npages })
                .collect(),
            pages: self.pages,
            zero_pages: self.zero_pages,
            superseded_bytes: self.superseded_bytes,
            index: self.index.clone(),
            pack: self.pack.clone(),
            states: self.states.clone(),
        };
        let mut bytes = header::encode(header::META).to_vec();
        ciborium::into_writer(&record, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the metadata of image `id` from the file `path`. Returns the bytes of the file too.
    pub(crate) fn read(path: &Path, id: ImageId) -> Result<(Self, u64), ImageError> {
        use std::io::Read;
        let file = std::fs::File::open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => damaged(path, "the file is missing".to_owned()),
            _ => crate::reader::io_error(path, e),
        })?;
        let mut bytes = Vec::new();
        file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(|e| crate::reader::io_error(path, e))?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(damaged(path, format!("it has more than {MAX_LEN} bytes")));
        }
        header::check(path, &bytes, header::META)?;
        if ImageId::of(&bytes) != id {
            return Err(damaged(path, format!("its BLAKE3 is not the image's identity {id}")));
        }
        let meta = Self::decode(&bytes).map_err(|what| damaged(path, what))?;
        Ok((meta, bytes.len() as u64))
    }

    /// The metadata in `bytes`, header included, or what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut body = bytes.get(header::LEN..).ok_or("it has no header")?;
        let record: Record =
            ciborium::from_reader(&mut body).map_err(|e| format!("its body cannot be read: {e}"))?;
        if !body.is_empty() {
            return Err(format!("{} bytes follow its body", body.len()));
        }
        Self::check(record)
    }

    fn check(record: Record) -> Result<Self, String> {
        if !is_vm_name(&record.vm) {
            return Err("its machine has an impossible name".to_owned());
        }
        let page_size =
            PageSize::new(record.page_size).ok_or_else(|| format!("{} is no page size", record.page_size))?;
        if record.slots.len() > Layout::MAX_SLOTS {
            return Err(format!("it has {} memslots", record.slots.len()));
        }
        let slots = SlotTable::new(record.slots.iter().map(|s| Memslot {
            id: SlotId::from_raw(s.slot),
            base: Gfn(s.base),
            npages: s.npages,
        }))
        .map_err(|e| e.to_string())?;
        let layout = Layout::new(page_size, slots).map_err(|e| e.to_string())?;
        if record.pages > layout.pages() || record.zero_pages > record.pages {
            return Err(format!(
                "it counts {} pages, {} of them zero, in a memory of {}",
                record.pages,
                record.zero_pages,
                layout.pages()
            ));
        }
        if record.states.len() > MAX_STATES {
            return Err(format!("it has {} parts of machine state", record.states.len()));
        }
        for state in &record.states {
            if !is_state_name(&state.name) || state.file.len > MAX_STATE {
                return Err(format!(
                    "the machine state {:?} of {} bytes is impossible",
                    state.name, state.file.len
                ));
            }
        }
        if !record.states.is_sorted_by(|a, b| a.name < b.name) {
            return Err("its parts of machine state are not in order".to_owned());
        }
        Ok(Self {
            vm: record.vm,
            created_ns: record.created_ns,
            sequence: record.sequence,
            nonce: record.nonce,
            parent: record.parent,
            layout,
            pages: record.pages,
            zero_pages: record.zero_pages,
            superseded_bytes: record.superseded_bytes,
            index: record.index,
            pack: record.pack,
            states: record.states,
        })
    }

    /// What a listing says of the image, whose metadata file has `len` bytes.
    pub(crate) fn summary(&self, id: ImageId, len: u64) -> Summary {
        let states = self.states.iter().fold(0u64, |sum, s| sum.saturating_add(s.file.len));
        Summary {
            id,
            parent: self.parent,
            vm: self.vm.clone(),
            created_ns: self.created_ns,
            sequence: self.sequence,
            memory_bytes: self.layout.bytes(),
            page_size: self.layout.page_size().bytes(),
            pages: self.pages,
            zero_pages: self.zero_pages,
            bytes_stored: len
                .saturating_add(self.index.len)
                .saturating_add(self.pack.len)
                .saturating_add(states),
            superseded_bytes: self.superseded_bytes,
        }
    }
}

/// A hash as sixty-four hexadecimal digits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hash: &blake3::Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hash.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<blake3::Hash, D::Error> {
        let text = String::deserialize(from)?;
        blake3::Hash::from_hex(text).map_err(serde::de::Error::custom)
    }
}
