//! Where a checkpoint's pages go: into memory first, from there into the store.

use std::time::{Duration, Instant};

use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{DirtyPages, SlotId};
use ringmark_image::{Finished, Writer};

use super::{CheckpointError, Phase, Progress};
use crate::ram::Ram;
use crate::stage::Stage;

/// Pages handed to the store at a time.
const RUN: usize = 256;

/// The pages of one checkpoint on their way.
pub(super) struct Capture<'a> {
    ram: &'a Ram,
    stage: &'a mut Stage,
    writer: Writer,
    begun: Instant,
    progress: &'a mut dyn FnMut(Progress),
    copied: (u64, Duration),
}

impl<'a> Capture<'a> {
    /// Pages that may be held in memory: half as many as the guest has. A checkpoint of more goes to the store in rounds.
    pub(super) fn budget(ram: &Ram) -> usize {
        usize::try_from(ram.slots().total_pages() / 2).unwrap_or(usize::MAX)
    }

    pub(super) fn new(
        ram: &'a Ram,
        stage: &'a mut Stage,
        writer: Writer,
        begun: Instant,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        Self { ram, stage, writer, begun, progress, copied: (0, Duration::ZERO) }
    }

    pub(super) fn say(&mut self, phase: Phase, pages: u64, total: u64) {
        let bytes = self.writer.bytes_written();
        (self.progress)(Progress { phase, pages, total, bytes, elapsed: self.begun.elapsed() });
    }

    /// The first round of a base: every page, the holes of memory without reading them.
    ///
    /// The holes are looked for after logging was switched on, so one that is filled meanwhile is in a later round.
    pub(super) fn base(&mut self, pages: &DirtyPages) -> Result<(), CheckpointError> {
        let present = self.ram.present().map_err(CheckpointError::Holes)?;
        let (mut data, mut holes) = (pages.clone(), pages.clone());
        holes.subtract(&present);
        data.subtract(&holes);
        for (slot, run) in holes.runs() {
            self.writer.put_zero(slot, run.start, run.end - run.start)?;
        }
        self.live(&data)
    }

    /// A round while the guest runs: to memory if it fits there, else to the store at once. Pages of a lazily restored
    /// memory that are still to come are as the parent has them, also where a whole slot is suspected.
    ///
    /// A page that memory holds is always copied over its older copy: memory is written to the store last, and of a page
    /// that is put twice the last one counts.
    pub(super) fn live(&mut self, pages: &DirtyPages) -> Result<(), CheckpointError> {
        let pages = &self.ram.without_outstanding(pages);
        self.say(Phase::Copying, 0, pages.len());
        let (held, fresh) = self.stage.split(pages);
        if !mutant::active(Mutant::OlderCopyWins) {
            self.stage(&held)?;
        }
        let count = usize::try_from(fresh.len()).unwrap_or(usize::MAX);
        if self.stage.len().saturating_add(count) <= Self::budget(self.ram) {
            self.stage(&fresh)?;
        } else {
            self.stream(&fresh)?;
        }
        self.say(Phase::Copying, pages.len(), pages.len());
        Ok(())
    }

    /// Makes ready for about `pages` more in the pause.
    pub(super) fn expect(&mut self, pages: u64) {
        let room = self.ram.slots().total_pages().saturating_sub(self.stage.len() as u64);
        self.stage.reserve(usize::try_from(pages.min(room)).unwrap_or(usize::MAX));
    }

    /// Copies the last pages, while the guest stands.
    pub(super) fn last(&mut self, pages: &DirtyPages) -> Result<(), CheckpointError> {
        let pages = self.ram.without_outstanding(pages);
        self.stage(&pages)
    }

    /// Copies `pages` to memory.
    fn stage(&mut self, pages: &DirtyPages) -> Result<(), CheckpointError> {
        let begun = Instant::now();
        self.stage.copy(self.ram, pages)?;
        self.copied.0 += pages.len();
        self.copied.1 += begun.elapsed();
        Ok(())
    }

    /// Pages copied to memory so far, and how long it took.
    pub(super) const fn copied(&self) -> (u64, Duration) {
        self.copied
    }

    /// Writes `pages`, none of which memory holds, to the store.
    fn stream(&mut self, pages: &DirtyPages) -> Result<(), CheckpointError> {
        let page = usize::try_from(self.ram.layout().page_size().bytes()).unwrap_or(usize::MAX);
        let mut buffer = vec![0; RUN.saturating_mul(page)];
        let mut done = 0;
        for (slot, run) in pages.runs() {
            let mut first = run.start;
            while first < run.end {
                let count = usize::try_from(run.end - first).unwrap_or(RUN).min(RUN);
                let bytes = &mut buffer[..count * page];
                self.ram.peek_pages(slot, first, bytes)?;
                self.writer.put(slot, first, bytes)?;
                first += count as u64;
                done += count as u64;
                if done % (16 * RUN as u64) < count as u64 {
                    self.say(Phase::Copying, done, pages.len());
                }
            }
        }
        Ok(())
    }

    /// Writes what memory holds, and the parts of the machine's state, and makes the image durable.
    pub(super) fn finish(mut self, parts: &[(&str, &[u8])]) -> Result<Finished, CheckpointError> {
        let total = self.stage.len() as u64;
        let page = usize::try_from(self.ram.layout().page_size().bytes()).unwrap_or(usize::MAX);
        let mut done = 0;
        let Self { stage, writer, progress, begun, .. } = &mut self;
        stage.for_each_run(RUN, |slot: SlotId, first, bytes| {
            writer.put(slot, first, bytes)?;
            done += (bytes.len() / page) as u64;
            if done % (16 * RUN as u64) < RUN as u64 {
                let bytes = writer.bytes_written();
                progress(Progress {
                    phase: Phase::Writing,
                    pages: done,
                    total,
                    bytes,
                    elapsed: begun.elapsed(),
                });
            }
            Ok::<_, CheckpointError>(())
        })?;
        for (name, bytes) in parts {
            self.writer.put_state(name, bytes)?;
        }
        self.say(Phase::Syncing, total, total);
        Ok(self.writer.finish()?)
    }
}
