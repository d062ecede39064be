//! The CBOR map of the metadata.

use serde::de::{Error, Visitor};

use super::{
    Deserialize, Digest, ImageId, Meta, NodeRef, PackRecord, Serialize, Spread, StateRecord, layout_of,
};

/// A byte string of `N` bytes.
#[derive(Clone, Copy)]
struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Exactly<const N: usize>;
        impl<const N: usize> Visitor<'_> for Exactly<N> {
            type Value = Bytes<N>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{N} bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                bytes.try_into().map(Bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
            }
        }
        from.deserialize_bytes(Exactly)
    }
}

/// Pack, length, offset, hash.
#[derive(Serialize, Deserialize)]
struct RootRow(u32, u32, u64, Bytes<16>);

/// Number, name, length, bytes of the table, BLAKE3 of the table, pages, nodes.
#[derive(Serialize, Deserialize)]
struct PackRow(u32, String, u64, u64, Bytes<32>, u64, u64);

/// Name, pack, offset, length, BLAKE3.
#[derive(Serialize, Deserialize)]
struct StateRow(String, u32, u64, u64, Bytes<32>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    vm: String,
    created_ns: u64,
    sequence: u64,
    nonce: u64,
    parent: Option<Bytes<32>>,
    seed: u64,
    page_size: u64,
    /// Name, first frame, pages.
    slots: Vec<(u32, u64, u64)>,
    pages: u64,
    zero_pages: u64,
    repeated_pages: u64,
    unchanged_pages: u64,
    stored: u64,
    extents: u64,
    decoded: u64,
    groups: u64,
    root: Option<RootRow>,
    first_pack: u32,
    next_pack: u32,
    packs: Vec<PackRow>,
    states: Vec<StateRow>,
}

impl Record {
    pub(super) fn of(meta: &Meta) -> Self {
        let slot = |s: &ringmark_dirty::Memslot| (s.id.raw(), s.base.0, s.npages);
        let pack = |p: &PackRecord| {
            PackRow(p.number, p.name.clone(), p.len, p.table_len, Bytes(p.table.0), p.pages, p.nodes)
        };
        let state = |s: &StateRecord| StateRow(s.name.clone(), s.pack, s.offset, s.len, Bytes(s.blake3.0));
        Self {
            vm: meta.vm.clone(),
            created_ns: meta.created_ns,
            sequence: meta.sequence,
            nonce: meta.nonce,
            parent: meta.parent.map(|id| Bytes(*id.bytes())),
            seed: meta.seed,
            page_size: meta.layout.page_size().bytes(),
            slots: meta.layout.slots().iter().map(slot).collect(),
            pages: meta.pages,
            zero_pages: meta.zero_pages,
            repeated_pages: meta.repeated_pages,
            unchanged_pages: meta.unchanged_pages,
            stored: meta.spread.stored,
            extents: meta.spread.extents,
            decoded: meta.spread.decoded,
            groups: meta.spread.groups,
            root: meta.root.map(|r| RootRow(r.pack, r.len, r.offset, Bytes(r.hash))),
            first_pack: meta.first_pack,
            next_pack: meta.next_pack,
            packs: meta.packs.iter().map(pack).collect(),
            states: meta.states.iter().map(state).collect(),
        }
    }

    /// The metadata; of its fields only the layout is checked.
    pub(super) fn checked(self) -> Result<Meta, String> {
        let pack = |row: PackRow| PackRecord {
            number: row.0,
            name: row.1,
            len: row.2,
            table_len: row.3,
            table: Digest(row.4.0),
            pages: row.5,
            nodes: row.6,
        };
        let state = |row: StateRow| StateRecord {
            name: row.0,
            pack: row.1,
            offset: row.2,
            len: row.3,
            blake3: Digest(row.4.0),
        };
        if !super::is_vm_name(&self.vm) {
            return Err("its machine has an impossible name".to_owned());
        }
        let root = |r: RootRow| NodeRef { pack: r.0, len: r.1, offset: r.2, hash: r.3.0 };
        Ok(Meta {
            vm: self.vm,
            created_ns: self.created_ns,
            sequence: self.sequence,
            nonce: self.nonce,
            parent: self.parent.map(|id| ImageId::from_bytes(id.0)),
            seed: self.seed,
            layout: layout_of(self.page_size, &self.slots)?,
            pages: self.pages,
            zero_pages: self.zero_pages,
            repeated_pages: self.repeated_pages,
            unchanged_pages: self.unchanged_pages,
            spread: Spread {
                stored: self.stored,
                extents: self.extents,
                decoded: self.decoded,
                groups: self.groups,
            },
            root: self.root.map(root),
            first_pack: self.first_pack,
            next_pack: self.next_pack,
            packs: self.packs.into_iter().map(pack).collect(),
            states: self.states.into_iter().map(state).collect(),
        })
    }
}
