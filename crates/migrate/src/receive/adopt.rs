//! Memory that need not be sent: asking for its file.

use ringmark_dirty::{PageSize, SlotTable};

use super::{Arriving, JOINING, ReceiveError};
use crate::link::Link;
use crate::memory_file::MemoryFile;
use crate::wire::{Message, Offer, Refusal};

/// What came of an offered memory file.
pub(super) enum Lent {
    /// It is here.
    File(MemoryFile),
    /// Pages are sent, and why, where a file was offered.
    Nothing(Option<String>),
}

/// Asks the source of `offer` for its memory file, where it has one and it can be mapped here. Where none comes (something
/// between the two sides forwards bytes alone) pages are sent; one that is not as it has to be is a reason to refuse.
pub(super) fn ask<F: Arriving>(
    control: &mut Link,
    offer: &Offer,
    (page_size, slots): (PageSize, &SlotTable),
    arriving: &F,
) -> Result<Result<Lent, Refusal>, ReceiveError> {
    if !offer.has_memory_file {
        return Ok(Ok(Lent::Nothing(None)));
    }
    if let Err(why) = control.may_share().and_then(|()| arriving.adopts(offer)) {
        return Ok(Ok(Lent::Nothing(Some(why))));
    }
    Message::WantMemoryFile.send(control)?;
    let mut reading = control.with_file(JOINING);
    let bytes = match Message::receive(&mut reading)? {
        Message::MemoryFile { bytes } => bytes,
        other => return Err(ReceiveError::OutOfTurn(other.name())),
    };
    let refused = |what: String| {
        let advice = Some("let its pages be sent (`ringmark migrate --memory copy`)".into());
        Ok(Err(Refusal { what, advice }))
    };
    let file = match reading.into_file() {
        Ok(Some(file)) => file,
        Ok(None) => {
            let why = "no descriptor came with it: what lies between the two sides forwards none";
            return Ok(Ok(Lent::Nothing(Some(why.into()))));
        }
        Err(error) => return refused(format!("its memory file cannot be taken: {error}")),
    };
    let expected = slots.total_pages() << page_size.shift();
    if bytes != expected {
        return refused(format!("it offers {expected} bytes of memory, and a memory file of {bytes} bytes"));
    }
    match MemoryFile::check(file, bytes) {
        Ok(file) => Ok(Ok(Lent::File(file))),
        Err(error) => refused(format!("its memory file cannot be taken: {error}")),
    }
}
