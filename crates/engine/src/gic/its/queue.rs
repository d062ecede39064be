//! The command queue: a ring in guest memory, filled up to `GITS_CWRITER`, executed up to `GITS_CREADR`.

use super::{Its, command::Command};
use crate::gic::{
    bits::{field, mask},
    distributor::Distributor,
    host::Host,
};

/// Bytes of a command.
const COMMAND: u64 = 32;

impl Its {
    /// Bytes of the queue; at most 1 MiB.
    pub(super) fn queue_len(&self) -> u64 {
        (field(self.cbaser, 7, 0) + 1) << 12
    }

    /// Executes what the queue holds, if the ITS is enabled; afterwards it is empty (`vgic_its_process_commands`).
    ///
    /// A command that cannot be read is skipped, and so is one that makes no sense: the guest learns of neither. Both
    /// ends are multiples of a command below the queue's length, so one call executes less than one round of it.
    pub(super) fn execute_queue(&mut self, distributor: &mut Distributor, host: &dyn Host) {
        if !self.enabled {
            return;
        }
        let queue = self.cbaser & mask(51, 12);
        while self.creadr != self.cwriter {
            let mut bytes = [0; 32];
            if host.read(queue + self.creadr, &mut bytes).is_ok() {
                // A command the ITS refuses has no effect that the guest could see.
                let _ = self.execute(distributor, host, &Command::from_bytes(&bytes));
            }
            self.creadr = (self.creadr + COMMAND) % self.queue_len();
        }
    }
}
