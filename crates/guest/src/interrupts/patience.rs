//! When an interrupt that has not come is given up.
//!
//! No clock can tell, since the vCPU that it is for may wait for a page of its memory, or for its turn on a busy host.
//! But a vCPU that goes on doing things takes what is pending for it: KVM looks at every entry into the guest, and has
//! one that is inside leave it. So an interrupt is lost once its vCPU has shown signs of life for a while.

use super::board::Board;
use crate::arm64::MAX_VCPUS;
use crate::config::Config;
use crate::status::HEARTBEAT;

/// Heartbeats of a vCPU after which it must have taken what was pending: more than it does with interrupts masked.
const BEATS: u64 = 1000;
/// Microseconds that pass in any case: an interrupt may take a moment to its vCPU.
const MOMENT: u64 = 100_000;
/// Microseconds after which a vCPU that shows no sign of life is given up.
const END: u64 = 30_000_000;

/// Waiting since some moment.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    waited: u64,
    /// The heartbeats at that moment.
    beats: [u64; VCPUS],
    /// Some vCPU was given up.
    lost: bool,
}

#[allow(clippy::cast_possible_truncation, reason = "a handful")]
const VCPUS: usize = MAX_VCPUS as usize;

impl Patience {
    /// Waiting from this moment on.
    pub(super) fn begin<B: Board>(board: &mut B, config: &Config) -> Result<Self, B::Error> {
        let mut patience = Self { waited: 0, beats: [0; VCPUS], lost: false };
        patience.renew(board, config)?;
        Ok(patience)
    }

    /// The same, except that nobody waits again for a vCPU that shows no sign of life.
    pub(super) fn renew<B: Board>(&mut self, board: &mut B, config: &Config) -> Result<(), B::Error> {
        self.waited = 0;
        for (vcpu, beats) in (0..config.writers).zip(&mut self.beats) {
            *beats = board.load(config.status_gpa(vcpu) + HEARTBEAT)?;
        }
        Ok(())
    }

    /// Waits a moment for an interrupt of `vcpu`, or says that it is lost.
    pub(super) fn wait<B: Board>(
        &mut self,
        board: &mut B,
        config: &Config,
        vcpu: u64,
    ) -> Result<bool, B::Error> {
        if self.waited >= MOMENT {
            // The first vCPU is the one that waits here, and takes interrupts all the while.
            let alive = vcpu == 0 || self.beats_of(board, config, vcpu)? >= BEATS;
            if alive || self.lost || self.waited >= END {
                self.lost |= !alive;
                return Ok(false);
            }
        }
        self.waited += board.pause();
        Ok(true)
    }

    /// How often the heart of `vcpu` has beaten since.
    fn beats_of<B: Board>(&self, board: &mut B, config: &Config, vcpu: u64) -> Result<u64, B::Error> {
        let now = board.load(config.status_gpa(vcpu) + HEARTBEAT)?;
        let then = (0..).zip(self.beats).find(|(index, _)| *index == vcpu).map_or(0, |(_, beats)| beats);
        Ok(now.wrapping_sub(then))
    }
}
