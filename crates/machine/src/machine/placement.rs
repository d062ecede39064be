//! Where a built-in guest's regions lie.

use ringmark_guest::{Config, Control, Interrupts, arm64};

use super::CreateError;
use crate::config::GuestSpec;
use crate::layout::AddressMap;
use crate::platform::{Hypervisor, PlatformError, Shape, address_map, controller_frames};
use crate::ram::Ram;
use crate::words::RamWords;

/// First byte of a PC that is nobody's: the first MiB belongs to the boot protocol and the mailbox.
const FIRST_FREE: u64 = 1 << 20;
/// The unit in which interrupt tables are laid out.
const TABLE_UNIT: u64 = 64 << 10;

/// Lays out a built-in guest's regions in the first memslot, behind an image that ends at `image_end`, and writes its
/// mailbox: what the programs do and, where the machine has interrupt translation services, what of them is theirs.
pub(super) fn publish(
    ram: &Ram,
    hypervisor: Hypervisor,
    spec: &GuestSpec,
    shape: Shape,
    image_end: u64,
) -> Result<(Config, Option<Interrupts>), CreateError> {
    let page_size = ram.layout().page_size();
    let end = ram.layout().ranges().next().map_or(0, |(_, start, size)| start + size);
    let mailbox = match address_map(hypervisor) {
        AddressMap::Pc => ringmark_guest::MAILBOX,
        AddressMap::Board => arm64::MAILBOX,
    };
    let blank = Config {
        mailbox,
        page_size: page_size.bytes(),
        hot: 0,
        pages: page_size.pages_in(spec.hot),
        ledger: 0,
        writers: shape.vcpus.into(),
        pattern: spec.pattern,
        pace: spec.pace,
        seed: spec.seed,
    };
    let free = image_end.max(mailbox + blank.mailbox_bytes()).max(FIRST_FREE);
    let interrupts =
        controller_frames(hypervisor).filter(|_| shape.translators > 0).map(|frames| Interrupts {
            area: free.next_multiple_of(TABLE_UNIT),
            distributor: frames.distributor,
            redistributors: frames.redistributors,
            translators: frames.translators,
            count: shape.translators.into(),
            devices: Interrupts::DEVICES,
            events: Interrupts::EVENTS,
        });
    let free = interrupts.map_or(free, |interrupts| interrupts.area + interrupts.bytes(&blank));
    let config = blank.place(free, end).map_err(PlatformError::from)?;

    let mut words = RamWords(ram);
    let failed = |e: vm_memory::GuestMemoryError| CreateError::Mailbox(e.to_string());
    config.publish(&mut words, Control::RUN).map_err(failed)?;
    if let Some(interrupts) = interrupts {
        interrupts.validate(&config).map_err(PlatformError::from)?;
        interrupts.publish(&mut words, &config).map_err(failed)?;
    }
    Ok((config, interrupts))
}
