//! One connection for pages, at the destination.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use ringmark_dirty::{PageSize, SlotTable};

use super::ReceiveError;
use crate::codec::{Decoder, Ledger, PageStore, Tally};
use crate::link::Link;
use crate::wire::Kind;
use crate::wire::frame::{self, FrameError, LAST};

/// Bytes after which what was taken is acknowledged: often enough that a window of some of these never runs dry.
const ACKNOWLEDGE: u64 = 1 << 20;

/// What to expect of a stream.
enum Next {
    Frame,
    /// The source has sent its last page.
    Ended,
}

/// One stream.
pub(super) struct Incoming {
    link: Link,
    decoder: Decoder,
    taken: u64,
    acknowledged: u64,
    tally: Tally,
}

impl Incoming {
    pub(super) fn new(link: Link, page_size: PageSize) -> Self {
        Self { link, decoder: Decoder::new(page_size), taken: 0, acknowledged: 0, tally: Tally::default() }
    }

    /// Takes frames until the source has no more: it says so, or `done` is set then, and the connection ended.
    pub(super) fn run(
        mut self,
        slots: &SlotTable,
        memory: &dyn PageStore,
        ledger: &Ledger,
        done: &AtomicBool,
    ) -> Result<Tally, ReceiveError> {
        let mut payload = Vec::new();
        loop {
            match self.step(&mut payload, slots, memory, ledger) {
                Ok(Next::Frame) => {}
                Ok(Next::Ended) => return Ok(self.tally),
                // Pairs with the release by which the end was announced: every barrier was passed before.
                Err(ReceiveError::Link(_)) if done.load(Ordering::Acquire) => return Ok(self.tally),
                Err(error) => return Err(error),
            }
        }
    }

    fn step(
        &mut self,
        payload: &mut Vec<u8>,
        slots: &SlotTable,
        memory: &dyn PageStore,
        ledger: &Ledger,
    ) -> Result<Next, ReceiveError> {
        match frame::receive_into(&mut self.link, payload)? {
            Kind::Pages => {
                let tally = &mut self.tally;
                self.decoder.decode(payload, slots, memory, &mut |run, page, hash| {
                    ledger.enter(tally, run.slot, page, hash);
                })?;
                self.taken += payload.len() as u64;
                if self.taken - self.acknowledged >= ACKNOWLEDGE {
                    self.acknowledged = self.taken;
                    self.say(Kind::Acknowledgement, &self.taken.to_le_bytes())?;
                }
                Ok(Next::Frame)
            }
            Kind::Barrier if payload.as_array().is_some_and(|n| u64::from_le_bytes(*n) & LAST != 0) => {
                Ok(Next::Ended)
            }
            Kind::Barrier => self.say(Kind::Barrier, payload).map(|()| Next::Frame),
            found => Err(FrameError::Unexpected { found, expected: Kind::Pages }.into()),
        }
    }

    fn say(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ReceiveError> {
        frame::send(&mut self.link, kind, payload)
            .and_then(|()| self.link.flush())
            .map_err(|error| FrameError::Io(error).into())
    }
}
