//! The pages that a guest was writing when its image was taken: a restored guest will want them first.
//!
//! A part of the image, named [`PART`]. After a version byte, for each memslot of the layout in the order of the slots'
//! names, in LEB128: the number of runs, and for each run the pages between it and the one before (the first counts from
//! page 0) and its length.

use ringmark_dirty::{DirtyPages, SlotTable};

/// The name of the part in an image.
pub(crate) const PART: &str = "working-set";

/// The version of the encoding; zero is never valid.
const VERSION: u8 = 1;

/// The bytes of the part.
pub(crate) fn encode(pages: &DirtyPages) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for (_, set) in pages.sets() {
        put(&mut bytes, set.runs().count() as u64);
        let mut at = 0;
        for run in set.runs() {
            put(&mut bytes, run.start - at);
            put(&mut bytes, run.end - run.start);
            at = run.end;
        }
    }
    bytes
}

/// The pages in `bytes`, of a memory of `slots`; or what is wrong with it.
pub(crate) fn decode(bytes: &[u8], slots: &SlotTable) -> Result<DirtyPages, String> {
    let (&version, mut rest) = bytes.split_first().ok_or("its working set is empty")?;
    if version != VERSION {
        return Err(format!("its working set is of version {version}, and this program reads {VERSION}"));
    }
    let mut pages = DirtyPages::new(slots);
    let names: Vec<_> = pages.sets().map(|(slot, set)| (slot, set.npages())).collect();
    for (slot, npages) in names {
        let mut at: u64 = 0;
        for number in 0..take(&mut rest)? {
            let (gap, length) = (take(&mut rest)?, take(&mut rest)?);
            let run = at.checked_add(gap).and_then(|start| Some(start..start.checked_add(length)?));
            let fits = run.filter(|run| length > 0 && (gap > 0 || number == 0) && run.end <= npages);
            let run = fits.ok_or_else(|| {
                format!("run {number} of memslot {slot} in its working set is not one of the slot's pages")
            })?;
            at = run.end;
            if let Some(set) = pages.slot_mut(slot) {
                set.insert_range(run);
            }
        }
    }
    if rest.is_empty() { Ok(pages) } else { Err(format!("{} bytes follow its working set", rest.len())) }
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0x7f);
        value >>= 7;
        bytes.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return;
        }
    }
}

fn take(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or("its working set ends within a number")?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if low << shift >> shift != low {
            break;
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("its working set has a number of more than 64 bits".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringmark_dirty::{Gfn, Memslot, SlotId};

    use super::*;

    fn slots() -> SlotTable {
        let slot = |number, base, npages| Memslot { id: SlotId::new(0, number), base: Gfn(base), npages };
        SlotTable::new([slot(0, 0, 1000), slot(1, 5000, 77)]).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(offsets in prop::collection::vec((0u16..2, 0u64..1000), 0..200)) {
            let mut pages = DirtyPages::new(&slots());
            for (slot, offset) in offsets {
                let _ = pages.insert(SlotId::new(0, slot), offset);
            }
            let bytes = encode(&pages);
            prop_assert_eq!(decode(&bytes, &slots()).unwrap(), pages);
            // Any shorter part is refused, and none is decoded past its end.
            for len in 0..bytes.len() {
                prop_assert!(decode(&bytes[..len], &slots()).is_err());
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(pages) = decode(&bytes, &slots()) {
                prop_assert!(pages.len() <= 1077);
            }
        }
    }

    #[test]
    fn impossible_runs_are_refused() {
        for bytes in [
            &[][..],
            &[0],
            &[2, 0, 0],
            &[1, 1, 0, 0, 0],       // no page
            &[1, 2, 0, 1, 0, 1, 0], // a run that goes on where the last ended
            &[1, 0, 1, 77, 1],      // past the slot's end
            &[1, 0, 0, 0],          // more than there is
            &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02, 0],
            &[1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1, 0],
        ] {
            assert!(decode(bytes, &slots()).is_err(), "{bytes:?}");
        }
    }
}
