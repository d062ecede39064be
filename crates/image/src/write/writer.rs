//! One image being written.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ringmark_dirty::SlotId;

use super::begin::{Workplace, random};
use super::encode::extent_pages;
use super::index::{Index, IndexBuilder};
use super::pipeline::{Complete, Pipeline};
use crate::format::meta::{self, MAX_PACKS, Meta, PackRecord};
use crate::publish::publish;
use crate::{Image, ImageId, Layout, Store, WriteError};

/// What an image is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// The name of the machine: 1 to 255 bytes without control characters.
    pub vm: String,
    /// The image that this one is an increment to; `None` for a base, which has to hold every page.
    pub parent: Option<ImageId>,
    /// The memory layout; that of the parent, if there is one.
    pub layout: Layout,
    /// When the image was taken, by the clock on the wall.
    pub created: SystemTime,
}

/// What a finished image came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its identity.
    pub id: ImageId,
    /// Pages that were put, each counted once.
    pub pages: u64,
    /// Those of them that are zero and cost nothing.
    pub zero_pages: u64,
    /// Those that repeat one word and cost nothing but it.
    pub repeated_pages: u64,
    /// Those that were what they are in the parent and cost nothing.
    pub unchanged_pages: u64,
    /// Bytes of its metadata and of the packs that were made for it.
    pub bytes_stored: u64,
    /// How often a page was put again; what was put before is dead space in a pack, unless it cost nothing.
    pub superseded_pages: u64,
    /// Pages that were stored again as they are in the parent, beside pages that were put, so that a restore finds them
    /// together.
    pub gathered_pages: u64,
    /// How fast it was written.
    pub rates: Rates,
}

/// How fast an image was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// From the first put until the image was durable; what the caller did in between counts.
    pub elapsed: Duration,
    /// Bytes of pages that were put, less those put without their bytes.
    pub put_bytes: u64,
    /// Bytes that went to the store.
    pub stored_bytes: u64,
}

impl Rates {
    /// Bytes of pages a second.
    #[must_use]
    pub fn put_rate(&self) -> f64 {
        rate(self.put_bytes, self.elapsed)
    }

    /// Bytes a second that went to the store.
    #[must_use]
    pub fn stored_rate(&self) -> f64 {
        rate(self.stored_bytes, self.elapsed)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate is for people")]
fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9)
}

impl fmt::Display for Rates {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1_048_576.0;
        write!(
            f,
            "{:.1} MiB in {:.2} s: {:.0} MiB/s taken, {:.0} MiB/s stored",
            self.put_bytes as f64 / MIB,
            self.elapsed.as_secs_f64(),
            self.put_rate() / MIB,
            self.stored_rate() / MIB
        )
    }
}

/// One image being written.
///
/// The writer owns nothing of the caller's: until [`finish`](Self::finish) has returned `Ok`, the pages that were put
/// belong to the caller's epoch, and after any error they belong into the next image. Dropping a writer removes what
/// it wrote.
///
/// Pages are compressed and stored by threads of the writer while `put` goes on. About 40 MiB of memory hold what is
/// under way, another 40 what is stored again beside it, and 24 bytes a page where it went; `put` waits when the store is
/// slower than the caller.
#[derive(Debug)]
pub struct Writer {
    // Fields drop in this order: the threads end before what they made is removed.
    pipeline: Pipeline,
    workplace: Workplace,
    store: Store,
    parent: Option<Image>,
    seed: u64,
    spec: ImageSpec,
    state_names: BTreeSet<String>,
    begun: Option<Instant>,
    put_bytes: u64,
    /// The first error of this writer; every later call repeats it.
    failed: Option<WriteError>,
}

impl Writer {
    pub(crate) fn new(
        store: Store,
        spec: ImageSpec,
        parent: Option<Image>,
        seed: u64,
        pipeline: Pipeline,
        workplace: Workplace,
    ) -> Self {
        Self {
            pipeline,
            workplace,
            store,
            parent,
            seed,
            spec,
            state_names: BTreeSet::new(),
            begun: None,
            put_bytes: 0,
            failed: None,
        }
    }

    /// Takes whole pages, the first of them `first` pages into `slot`. Of a page that is put more than once, the last
    /// put wins. Returns before the pages are stored, so that an error may belong to an earlier put.
    ///
    /// # Errors
    /// Pages outside of the layout or in part, which change nothing; or a store that is full or fails, after which this
    /// image is lost.
    pub fn put(&mut self, slot: SlotId, first: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.check_alive()?;
        let page_size = self.spec.layout.page_size();
        let len = bytes.len() as u64;
        if !page_size.is_aligned(len) {
            let page_size = page_size.bytes();
            return Err(WriteError::PartialPage { slot, first, len: bytes.len(), page_size });
        }
        let number = self.number(slot, first, page_size.pages_in(len))?;
        self.begun.get_or_insert_with(Instant::now);
        self.put_bytes += len;
        let put = self.pipeline.put(number, bytes);
        self.keep(put)
    }

    /// Takes `pages` zero pages, the first of them `first` pages into `slot`, without their bytes: for memory that is
    /// known to have been written by nobody. Costs no more for a whole memslot than for a page.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_zero(&mut self, slot: SlotId, first: u64, pages: u64) -> Result<(), WriteError> {
        self.check_alive()?;
        let number = self.number(slot, first, pages)?;
        if pages == 0 {
            return Ok(());
        }
        self.begun.get_or_insert_with(Instant::now);
        let put = self.pipeline.put_zero(number..number + pages);
        self.keep(put)
    }

    /// Takes one part of the machine state. A name is 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`, and is put once.
    ///
    /// # Errors
    /// A name that is impossible or was put already, or more state than an image holds, which change nothing; or a
    /// store that is full or fails, after which this image is lost.
    pub fn put_state(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        self.check_alive()?;
        if !meta::is_state_name(name) || self.state_names.contains(name) {
            return Err(WriteError::StateName(name.to_owned()));
        }
        if bytes.len() as u64 > meta::MAX_STATE || self.state_names.len() >= meta::MAX_STATES {
            return Err(WriteError::StateSize {
                name: name.to_owned(),
                len: bytes.len(),
                max: meta::MAX_STATE,
                parts: meta::MAX_STATES,
            });
        }
        self.state_names.insert(name.to_owned());
        let put = self.pipeline.put_state(name, bytes);
        self.keep(put)
    }

    /// Bytes that were handed to the store so far; for a display of progress.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.workplace.ledger.written()
    }

    /// Completes the image. When this returns `Ok`, the image is durable and visible.
    ///
    /// # Errors
    /// A base that misses pages; a store that is full or fails, be it only in making the image durable. The image then
    /// does not exist, and earlier ones are intact.
    pub fn finish(mut self) -> Result<Finished, WriteError> {
        self.check_alive()?;
        let Self { pipeline, workplace, store, parent, seed, spec, begun, put_bytes, .. } = self;
        let begun = begun.unwrap_or_else(Instant::now);
        let Complete { table, extents, mut states, mut packs } = pipeline.finish()?;
        let all = spec.layout.pages();
        if parent.is_none()
            && let Some((number, missing)) = table.missing(all)
            && let Some((slot, offset, _)) = spec.layout.place(number)
        {
            return Err(WriteError::Incomplete { slot, offset, missing });
        }
        let group = usize::from(extent_pages(spec.layout.page_size()));
        let builder = IndexBuilder::new(&store, parent.as_ref(), &table, &extents, &mut packs, group);
        let Index { root, usage, spread } = builder.build(all)?;
        let own = packs.finish()?;
        let first_pack = parent.as_ref().map_or(0, |p| p.meta().next_pack);
        let next_pack = own.last().map_or(first_pack, |p| p.number + 1);
        let inherited = parent.iter().flat_map(|p| p.meta().packs.iter().cloned());
        let packs: Vec<PackRecord> = inherited
            .chain(own)
            .map(|pack| {
                let usage = usage.get(&pack.number).copied().unwrap_or_default();
                PackRecord { pages: usage.pages, nodes: usage.nodes, ..pack }
            })
            .filter(|pack| pack.number >= first_pack || pack.pages > 0 || pack.nodes > 0)
            .collect();
        if packs.len() > MAX_PACKS {
            return Err(WriteError::TooManyPacks { max: MAX_PACKS });
        }
        states.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let counts = table.counts(all);
        let failed = |e| WriteError::io("naming an image of", store.location(), e, 0);
        let meta = Meta {
            vm: spec.vm,
            created_ns: nanoseconds(spec.created),
            sequence: parent.as_ref().map_or(0, |p| p.meta().sequence).saturating_add(1),
            nonce: random().map_err(failed)?,
            parent: spec.parent,
            seed,
            layout: spec.layout,
            pages: counts.pages,
            zero_pages: counts.zero,
            repeated_pages: counts.repeated,
            unchanged_pages: counts.unchanged,
            spread,
            root,
            first_pack,
            next_pack,
            packs,
            states,
        };
        let published = publish(&store, workplace, meta)?;
        Ok(Finished {
            id: published.id,
            pages: counts.pages,
            zero_pages: counts.zero,
            repeated_pages: counts.repeated,
            unchanged_pages: counts.unchanged,
            bytes_stored: published.bytes_stored,
            superseded_pages: table.superseded,
            gathered_pages: counts.gathered,
            rates: Rates { elapsed: begun.elapsed(), put_bytes, stored_bytes: published.bytes_stored },
        })
    }

    fn number(&self, slot: SlotId, first: u64, pages: u64) -> Result<u64, WriteError> {
        let number = self.spec.layout.number(slot, first, pages);
        number.ok_or(WriteError::OutOfRange { slot, first, end: first.saturating_add(pages) })
    }

    fn check_alive(&mut self) -> Result<(), WriteError> {
        self.failed.as_ref().map_or(Ok(()), |e| Err(e.clone()))
    }

    fn keep<T>(&mut self, result: Result<T, WriteError>) -> Result<T, WriteError> {
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }
}

/// Nanoseconds since 1970; a clock before that, or after 2554, is taken for the nearest of these.
fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
