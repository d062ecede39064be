//! A store of images on a real S3 server: nothing is lost, whatever happens between.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_image::{Finished, ImageId, ImageSpec, Layout, Store};
use ringmark_object::Limits;

use crate::common::{Fault, LIMITS, Server, bytes, wait_for};

const PAGE: usize = 4096;
const SLOT: SlotId = SlotId::new(0, 0);

fn layout(pages: u64) -> Layout {
    let slot = Memslot { id: SLOT, base: Gfn(0), npages: pages };
    Layout::new(PageSize::new(PAGE as u64).unwrap(), SlotTable::new([slot]).unwrap()).unwrap()
}

fn store(server: &Server, limits: Limits) -> Store {
    Store::with_backend(server.backend_within(limits), true).unwrap()
}

/// A machine of one memslot: what it has, and what it has written since its last image.
#[derive(Clone)]
struct Guest {
    name: &'static str,
    memory: Vec<u8>,
    dirty: BTreeSet<usize>,
    newest: Option<ImageId>,
}

impl Guest {
    fn new(name: &'static str, pages: usize) -> Self {
        let mut memory = bytes(pages * PAGE, pages as u64);
        // A zero page, and one of a repeated word.
        memory[..PAGE].fill(0);
        memory[PAGE..2 * PAGE].fill(7);
        Self { name, memory, dirty: (0..pages).collect(), newest: None }
    }

    fn write(&mut self, page: usize, seed: u64) {
        let page = page % (self.memory.len() / PAGE);
        self.memory[page * PAGE..][..PAGE].copy_from_slice(&bytes(PAGE, seed));
        self.dirty.insert(page);
    }

    /// As a monitor does it: the pages are owned until the image is durable.
    fn checkpoint(&mut self, store: &Store) -> Result<Finished, Box<dyn std::error::Error>> {
        let mut writer = store.begin(ImageSpec {
            vm: self.name.into(),
            parent: self.newest,
            layout: layout((self.memory.len() / PAGE) as u64),
            created: SystemTime::now(),
        })?;
        for page in &self.dirty {
            writer.put(SLOT, *page as u64, &self.memory[page * PAGE..][..PAGE])?;
        }
        writer.put_state("machine", self.name.as_bytes())?;
        let finished = writer.finish()?;
        self.newest = Some(finished.id);
        self.dirty.clear();
        Ok(finished)
    }

    /// The newest image of `store` is this guest.
    fn is_in(&self, store: &Store) {
        holds(store, self.newest.unwrap(), &self.memory);
    }
}

fn holds(store: &Store, id: ImageId, memory: &[u8]) {
    let image = store.image(id).unwrap();
    let found = Mutex::new(vec![0; memory.len()]);
    let restored = image.restore(|slot, first, bytes: &[u8]| {
        assert_eq!(slot, SLOT);
        found.lock().unwrap()[usize::try_from(first).unwrap() * PAGE..][..bytes.len()].copy_from_slice(bytes);
        Ok::<_, std::convert::Infallible>(())
    });
    restored.unwrap();
    assert!(*found.lock().unwrap() == memory, "image {id} holds something else");
    image.verify(true).unwrap();
}

#[test]
fn images_live_in_a_bucket() {
    let server = Server::start();
    let here = store(&server, LIMITS);
    assert_eq!(here.location(), "s3://bucket/some/prefix");
    let mut guest = Guest::new("vm", 64);
    let mut history = Vec::new();
    for turn in 0..5 {
        guest.write(5 * turn, turn as u64);
        guest.checkpoint(&here).unwrap();
        history.push((guest.newest.unwrap(), guest.memory.clone()));
    }
    // Another process, which has nothing but the URL.
    let there = Store::with_backend(server.backend(), false).unwrap();
    assert_eq!(there.list().unwrap().images.len(), 5);
    assert_eq!(there.newest("vm").unwrap().unwrap().id, guest.newest.unwrap());
    for (id, memory) in &history {
        holds(&there, *id, memory);
    }
    // Ancestors go, descendants stay whole.
    there.remove(&[history[0].0, history[2].0]).unwrap();
    for (id, memory) in [&history[1], &history[3], &history[4]] {
        holds(&here, *id, memory);
    }
    let rest: Vec<ImageId> = here.list().unwrap().images.iter().map(|image| image.id).collect();
    here.remove(&rest).unwrap();
    assert_eq!(server.backend().list("packs/").unwrap(), [], "nothing needs a pack any more");
}

/// Each kind of fault at a server of its own, and all at once: what takes time is a client that waits before it tries again.
#[test]
fn checkpoints_survive_faults() {
    let survives = |(turn, fault): (usize, Fault)| {
        let server = Server::start();
        let store = store(&server, LIMITS);
        let mut guest = Guest::new("vm", 64);
        guest.checkpoint(&store).unwrap();
        let every = if matches!(fault, Fault::Slow(_)) { 19 } else { 4 };
        server
            .plan
            .set(move |request| if request.number % every == turn % every { fault } else { Fault::None });
        for _ in 0..2 {
            guest.write(3 * turn, turn as u64);
            guest.checkpoint(&store).unwrap();
        }
        guest.is_in(&store);
        server.plan.clear();
        guest.is_in(&store);
        assert_eq!(store.list().unwrap().images.len(), 3, "{fault:?}");
    };
    std::thread::scope(|scope| {
        for case in Fault::EVERY.into_iter().enumerate() {
            scope.spawn(move || survives(case));
        }
    });
}

/// The process dies at every write of a checkpoint in turn: from there on nothing that it sends arrives.
#[test]
fn a_writer_killed_at_every_write() {
    let limits = Limits {
        retries: Duration::from_millis(50),
        request: Duration::from_secs(2),
        lease: Duration::from_secs(10),
    };
    let server = Server::start();
    let mut guest = Guest::new("vm", 64);
    guest.checkpoint(&store(&server, limits)).unwrap();
    for kill in 0.. {
        guest.write(7 * kill, kill as u64);
        let before = guest.clone();
        let killed = store(&server, limits);
        let mut writes = 0;
        server.plan.set(move |request| {
            if !matches!(request.method.as_str(), "GET" | "HEAD") {
                writes += 1;
            }
            if writes > kill { Fault::CutBefore } else { Fault::None }
        });
        let result = guest.checkpoint(&killed);
        // Its last words do not arrive either.
        drop(killed);
        server.plan.clear();
        let next = store(&server, limits);
        if result.is_ok() {
            // Every write of a checkpoint has been the first to be lost.
            guest.is_in(&next);
            assert!(kill >= 3, "claim, pack and metadata are writes, not {kill}");
            break;
        }
        before.is_in_as_newest_or_older(&next);
        guest = before;
        guest.checkpoint(&next).unwrap();
        guest.is_in(&next);
    }
    // What the dead left behind is removed when their leases are over, and nothing else is.
    let last = store(&server, limits);
    let needed = |store: &Store| -> BTreeSet<String> {
        let images = store.list().unwrap().images;
        images
            .iter()
            .flat_map(|image| image.packs.iter().map(|pack| format!("packs/{}", pack.name)))
            .collect()
    };
    wait_for("the leftovers of dead writers to be swept", || {
        last.sweep().unwrap();
        let packs = server.backend().list("packs/").unwrap();
        let packs: BTreeSet<String> = packs.into_iter().map(|listed| listed.key).collect();
        packs == needed(&last) && server.backend().claims().unwrap().is_empty()
    });
    guest.is_in(&last);
}

impl Guest {
    /// The last image that was reported as done is there, unharmed.
    fn is_in_as_newest_or_older(&self, store: &Store) {
        let image = store.image(self.newest.unwrap()).unwrap();
        image.verify(true).unwrap();
    }
}

/// A bucket without room refuses whatever would add to it: a quota with 403, a full disk behind it with 507.
#[test]
fn a_full_bucket_fails_the_checkpoint_and_nothing_else() {
    let limits = Limits { retries: Duration::from_millis(50), ..LIMITS };
    let server = Server::start();
    let here = store(&server, limits);
    let mut guest = Guest::new("vm", 64);
    guest.checkpoint(&here).unwrap();
    for (turn, status) in [507, 403].into_iter().enumerate() {
        let before = guest.clone();
        guest.write(9 * turn + 3, turn as u64);
        // What it had room for before it was full: nothing, the claim, the claim and the pack.
        for room in 0..3 {
            let mut writes = 0;
            server.plan.set(move |request| {
                let adds = matches!(request.method.as_str(), "PUT" | "POST");
                writes += usize::from(adds);
                if adds && writes > room { Fault::Refuse(status) } else { Fault::None }
            });
            guest.checkpoint(&here).unwrap_err();
            before.is_in(&here);
            assert_eq!(here.list().unwrap().images.len(), 1 + turn, "an image without its pages");
        }
        server.plan.clear();
        // The epoch was never given up, and goes into the next image.
        guest.checkpoint(&here).unwrap();
        guest.is_in(&here);
    }
}

/// A writer that is killed amid a large upload leaves parts, which no listing shows.
#[test]
fn parts_of_a_dead_writer_are_aborted() {
    let limits = Limits {
        retries: Duration::from_millis(50),
        request: Duration::from_secs(2),
        lease: Duration::from_secs(5),
    };
    let server = Server::start();
    let mut guest = Guest::new("vm", 6000);
    guest.checkpoint(&store(&server, limits)).unwrap();
    assert_eq!(server.loose_parts(), 0);
    for page in 0..6000 {
        guest.write(page, 1 << 20 | page as u64);
    }
    let killed = store(&server, limits);
    // The second part does not arrive, nor anything after it.
    let mut dead = false;
    server.plan.set(move |request| {
        dead |= request.target.contains("partNumber=2");
        if dead { Fault::CutBefore } else { Fault::None }
    });
    let mut twin = guest.clone();
    twin.checkpoint(&killed).unwrap_err();
    server.plan.set(|request| match request.method.as_str() {
        // The killed process would not have aborted it.
        "DELETE" => Fault::CutBefore,
        _ => Fault::None,
    });
    drop(killed);
    std::thread::sleep(Duration::from_millis(200));
    server.plan.clear();
    let next = store(&server, limits);
    wait_for("the parts to be aborted", || {
        next.sweep().unwrap();
        server.loose_parts() == 0
    });
    guest.checkpoint(&next).unwrap();
    guest.is_in(&next);
}

#[test]
fn two_writers_on_one_bucket() {
    let server = Server::start();
    let mut ancestor = Guest::new("ancestor", 64);
    ancestor.checkpoint(&store(&server, LIMITS)).unwrap();
    // Two machines go on from one image, and everything that either removes is its own.
    let guests: Vec<Guest> = std::thread::scope(|scope| {
        let writers: Vec<_> = ["left", "right"]
            .into_iter()
            .enumerate()
            .map(|(number, name)| {
                let store = store(&server, LIMITS);
                let mut guest = Guest { name, ..ancestor.clone() };
                scope.spawn(move || {
                    let mut last = None;
                    for turn in 0..6 {
                        guest.write(turn * (number + 3), (turn * 10 + number) as u64);
                        guest.checkpoint(&store).unwrap();
                        guest.is_in(&store);
                        if let Some(last) = last.replace(guest.newest.unwrap()) {
                            store.remove(&[last]).unwrap();
                        }
                    }
                    guest
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let store = store(&server, LIMITS);
    guests.iter().chain([&ancestor]).for_each(|guest| guest.is_in(&store));
    let names: BTreeSet<String> = store.list().unwrap().images.into_iter().map(|image| image.vm).collect();
    assert_eq!(names, ["ancestor", "left", "right"].map(ToOwned::to_owned).into());
}

#[test]
fn a_bucket_stands_every_failure() {
    crate::failing_backend::stands_every_failure(&Server::start().backend());
}
