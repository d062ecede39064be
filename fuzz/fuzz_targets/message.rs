#![no_main]

use ringmark_migrate::codec::Seeded;
use ringmark_migrate::wire::Message;

// What a peer says on the control connection, and what is made of it before anything is believed.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(bytes) else { return };
    let mut again = Vec::new();
    if message.send(&mut again).is_ok() {
        assert_eq!(Message::receive(&mut again.as_slice()).ok().as_ref(), Some(&message));
    }
    let slots = ringmark_dirty::SlotTable::new([ringmark_dirty::Memslot {
        id: ringmark_dirty::SlotId::new(0, 0),
        base: ringmark_dirty::Gfn(0),
        npages: 4096,
    }])
    .expect("one slot");
    match message {
        Message::Offer(offer) => drop(offer.memory()),
        Message::Accept { seed: Some(seed), .. } => drop(Seeded::new(seed, &slots)),
        Message::Hashes(hashes) => {
            let seed = ringmark_migrate::wire::Seed { pages: 4096, key: 1 };
            let _ = Seeded::new(seed, &slots).expect("as many as there are").take(&hashes, &slots);
        }
        _ => {}
    }
});
