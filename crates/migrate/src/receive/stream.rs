//! One connection for pages, at the destination.

use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ringmark_dirty::{PageSize, SlotTable};

use super::ReceiveError;
use crate::codec::{Decoder, Ledger, PageStore, Tally};
use crate::link::Link;
use crate::wire::Kind;
use crate::wire::frame::{self, FrameError};

/// Bytes after which what was taken is acknowledged: often enough that a window of some of these never runs dry.
const ACKNOWLEDGE: u64 = 1 << 20;
/// Small frames are read together.
const BUFFER: usize = 64 << 10;

/// One stream.
pub(super) struct Incoming {
    link: BufReader<Link>,
    decoder: Decoder,
    taken: u64,
    acknowledged: u64,
    tally: Tally,
}

impl Incoming {
    pub(super) fn new(link: Link, page_size: PageSize) -> Self {
        Self {
            link: BufReader::with_capacity(BUFFER, link),
            decoder: Decoder::new(page_size),
            taken: 0,
            acknowledged: 0,
            tally: Tally::default(),
        }
    }

    /// Takes frames until the source has no more: `done` is set then, and the connection ended.
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
                Ok(()) => {}
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
    ) -> Result<(), ReceiveError> {
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
                Ok(())
            }
            Kind::Barrier => self.say(Kind::Barrier, payload),
            found => Err(FrameError::Unexpected { found, expected: Kind::Pages }.into()),
        }
    }

    fn say(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ReceiveError> {
        let link = self.link.get_mut();
        frame::send(link, kind, payload)
            .and_then(|()| link.flush())
            .map_err(|error| FrameError::Io(error).into())
    }
}
