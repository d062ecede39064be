//! A place that fails at any of its operations, or loses the answer, or goes away for good.
//!
//! Nothing here knows what kind of place it is.

use std::sync::Arc;

use crate::common::backend_faults::{FaultyBackend, Shared, Strike};
use crate::common::{Memory, assert_holds, layout, noise, spec, take_base};
use ringmark_dirty::SlotId;
use ringmark_image::{Backend, BeginError, ImageId, Layout, Store, WriteError};

const PAGES: [u64; 3] = [3, 4, 17];

fn shape() -> Layout {
    layout(4096, &[(0, 20), (1 << 20, 20)])
}

/// An attempt at an increment through a backend that strikes.
fn attempt(
    inner: &Arc<dyn Backend>,
    parent: ImageId,
    at: u64,
    strike: Strike,
) -> (Result<ImageId, Option<WriteError>>, Arc<Shared>) {
    let (faulty, shared) = FaultyBackend::new(Arc::clone(inner), at, strike);
    let store = Store::with_backend(faulty, false).unwrap();
    let written = || {
        let mut writer = match store.begin(spec(&shape(), Some(parent))) {
            Ok(writer) => writer,
            Err(BeginError::Io { .. }) => return Err(None),
            Err(error) => panic!("{error}"),
        };
        let mut write = || {
            PAGES.iter().try_for_each(|p| writer.put(SlotId::new(0, 1), *p, &noise(4096, *p)))?;
            writer.put_state("vcpu-0", b"new registers")
        };
        write().and_then(|()| writer.finish()).map(|f| f.id).map_err(Some)
    };
    (written(), shared)
}

/// What every kind of place has to stand.
pub(crate) fn stands_every_failure(inner: &Arc<dyn Backend>) {
    let store = Store::with_backend(Arc::clone(inner), true).unwrap();
    let mut before = Memory::zero(&shape());
    before.write(SlotId::new(0, 0), 0, &noise(20 * 4096, 1));
    let base = take_base(&store, &shape(), &before).unwrap().id;
    let mut after = before.clone();
    PAGES.iter().for_each(|p| after.write(SlotId::new(0, 1), *p, &noise(4096, *p)));

    let (good, counted) = attempt(inner, base, u64::MAX, Strike::Fails);
    assert_holds(&store, good.unwrap(), &after);
    store.remove(&[store.newest("vm1").unwrap().unwrap().id]).unwrap();
    let log = counted.log.lock().unwrap().clone();
    for strike in [Strike::Fails, Strike::AnswerLost, Strike::GoneForGood] {
        for at in 0..counted.count() {
            let (result, _) = attempt(inner, base, at, strike);
            let what = format!("{strike:?} at operation {at}, {}", log[usize::try_from(at).unwrap()]);
            let fresh = Store::with_backend(Arc::clone(inner), false).unwrap();
            let listing = fresh.list().unwrap();
            assert!(listing.damaged.is_empty(), "{what}");
            assert_holds(&fresh, base, &before);
            match result {
                // Only the release of the claim may fail unnoticed.
                Ok(id) => {
                    assert!(log[usize::try_from(at).unwrap()] == "release", "{what} went unnoticed");
                    assert_holds(&fresh, id, &after);
                    fresh.remove(&[id]).unwrap();
                }
                Err(Some(WriteError::NotWithdrawn { id, .. })) => {
                    assert_eq!(strike, Strike::GoneForGood, "{what}");
                    if listing.images.iter().any(|i| i.id == id) {
                        assert_holds(&fresh, id, &after);
                        fresh.remove(&[id]).unwrap();
                    }
                }
                Err(_) => assert_eq!(listing.images.len(), 1, "{what}"),
            }
        }
    }
    // What all of them left is found, and the next image has everything.
    assert_holds(&store, attempt(inner, base, u64::MAX, Strike::Fails).0.unwrap(), &after);
    store.sweep().unwrap();
    assert_eq!(inner.list("packs/").unwrap().len(), 2);
    assert!(inner.claims().unwrap().is_empty());
}
