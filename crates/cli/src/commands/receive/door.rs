//! Where a machine comes in: its name and its socket before its pages.

use std::sync::Arc;
use std::time::Instant;

use ringmark_control::Server;
use ringmark_dirty::DirtyPages;
use ringmark_machine::devices::Console;
use ringmark_machine::{Arrivals, Coming, Machine};
use ringmark_migrate::codec::PageStore;
use ringmark_migrate::receive::{Arrival, Arriving};
use ringmark_migrate::{MemoryFile, Offer, Refusal};
use ringmark_track::BoxError;

use super::lobby::Lobby;
use crate::failure::Failure;
use crate::{host, paths};

/// Takes machines that have a name which is free here.
pub(super) struct Door<F> {
    arrivals: Arrivals<F>,
    lobby: Arc<Lobby>,
}

impl<F> Door<F> {
    pub(super) const fn new(arrivals: Arrivals<F>, lobby: Arc<Lobby>) -> Self {
        Self { arrivals, lobby }
    }
}

/// A machine that arrives, with its socket.
pub(super) struct AtDoor {
    coming: Coming,
    server: Server,
}

/// A machine that has arrived.
pub(super) struct AtHome {
    pub(super) machine: Machine,
    pub(super) server: Server,
}

impl<F: FnMut() -> Console> Door<F> {
    fn let_in(
        &mut self,
        offer: &Offer,
        arrive: impl FnOnce(&mut Arrivals<F>) -> Result<Coming, Refusal>,
    ) -> Result<AtDoor, Refusal> {
        let refused = |failure: Failure| Refusal {
            what: failure.message,
            advice: Some("receive it under another name (`ringmark receive --name`)".into()),
        };
        let name = self.arrivals.name_of(offer);
        let socket = paths::socket(&name).map_err(refused)?;
        host::check_name(&socket).map_err(refused)?;
        let coming = arrive(&mut self.arrivals)?;
        self.lobby.expect(name, offer);
        let server = Server::bind(socket, Arc::clone(&self.lobby) as _)
            .map_err(|error| refused(host::bind_failure(&error)))?;
        self.lobby.serve_at(server.path());
        Ok(AtDoor { coming, server })
    }
}

impl<F: FnMut() -> Console> Arriving for Door<F> {
    type Arrival = AtDoor;

    fn accept(&mut self, offer: &Offer) -> Result<AtDoor, Refusal> {
        self.let_in(offer, |arrivals| arrivals.accept(offer))
    }

    fn adopts(&self, offer: &Offer) -> Result<(), String> {
        self.arrivals.adopts(offer)
    }

    fn adopt(&mut self, offer: &Offer, memory: MemoryFile) -> Result<AtDoor, Refusal> {
        self.let_in(offer, |arrivals| arrivals.adopt(offer, memory))
    }
}

impl Arrival for AtDoor {
    type Machine = AtHome;

    fn memory(&self) -> &dyn PageStore {
        self.coming.memory()
    }

    fn seeded(&self) -> Option<DirtyPages> {
        self.coming.seeded()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BoxError> {
        self.coming.load(state)
    }

    fn run(self) -> Result<AtHome, BoxError> {
        Ok(AtHome { machine: self.coming.run()?, server: self.server })
    }

    fn entered(home: &AtHome) -> Option<Instant> {
        Coming::entered(&home.machine)
    }
}
