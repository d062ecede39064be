use super::*;
use crate::layout::AddressMap;

fn of_64_mib() -> (Ram, SlotId, PageSize) {
    let size = PageSize::new(rustix::param::page_size() as u64).unwrap_or_else(|| unreachable!("of Linux"));
    let layout = RamLayout::new(AddressMap::Board, 64 << 20, size).unwrap_or_else(|e| panic!("{e}"));
    let ram = Ram::new(layout).unwrap_or_else(|e| panic!("{e}"));
    let slot = ram.table.iter().next().map(|slot| slot.id);
    (ram, slot.unwrap_or_else(|| unreachable!("there is memory")), size)
}

#[test]
fn zeros_replace_data_and_fill_no_hole() {
    let (ram, slot, size) = of_64_mib();
    let page = usize::try_from(size.bytes()).unwrap_or(usize::MAX);
    for offset in [0, 2, 5, 70, 300] {
        ram.write_pages(slot, offset, &vec![7; page]).unwrap_or_else(|e| panic!("{e}"));
    }
    ram.zero_pages(slot, 1, 3).unwrap_or_else(|e| panic!("{e}"));
    let present = |offset| ram.present().unwrap_or_else(|e| panic!("{e}")).contains(slot, offset);
    assert!(!present(1) && present(2) && !present(3), "a hole was filled, or a page taken away");
    ram.zero_pages(slot, 6, 200).unwrap_or_else(|e| panic!("{e}"));
    assert!(!present(70), "a long run of zeros is a hole");
    let mut bytes = vec![0; 301 * page];
    ram.peek_pages(slot, 0, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
    for (offset, page) in bytes.chunks(page).enumerate() {
        let wanted = if [0, 5, 300].contains(&offset) { 7 } else { 0 };
        assert!(page.iter().all(|byte| *byte == wanted), "page {offset}");
    }
    assert!(ram.zero_pages(slot, (64 << 20 >> size.shift()) - 1, 2).is_err(), "past the end");
    assert!(ram.zero_pages(slot, 0, u64::MAX).is_err());
}

/// Its owner's guest may run on, and nobody would know of a write from here.
#[test]
fn memory_that_is_still_the_sources_is_not_written() {
    let (source, slot, size) = of_64_mib();
    let page = vec![7; usize::try_from(size.bytes()).unwrap_or(usize::MAX)];
    for offset in 0..70 {
        source.write_pages(slot, offset, &page).unwrap_or_else(|e| panic!("{e}"));
    }
    let file = source.handed_over().unwrap_or_else(|e| panic!("{e}"));
    let file = file.try_clone_to_owned().unwrap_or_else(|e| panic!("{e}"));
    let memory = MemoryFile::check(file, 64 << 20).unwrap_or_else(|e| panic!("{e}"));
    let ram = Ram::adopt(source.layout.clone(), memory).unwrap_or_else(|e| panic!("{e}"));
    let byte = |ram: &Ram, offset| {
        let mut read = page.clone();
        ram.peek_pages(slot, offset, &mut read).unwrap_or_else(|e| panic!("{e}"));
        read[0]
    };
    assert_eq!(byte(&ram, 3), 7, "it is the same memory");
    assert!(ram.write_pages(slot, 3, &vec![1; page.len()]).is_err());
    assert!(ram.fill_pages(slot, 3, &vec![1; page.len()]).is_err());
    assert!(ram.zero_pages(slot, 0, 1).is_err() && ram.zero_pages(slot, 0, 70).is_err());
    // As KVM does for a device, the kernel writes through the mapping.
    let mut zeros = File::open("/dev/zero").unwrap_or_else(|e| panic!("{e}"));
    let start = ram.address(slot, 3).unwrap_or_else(|| unreachable!("it has 70 pages"));
    assert!(ram.guest.read_exact_volatile_from(start, &mut zeros, 8).is_err());
    assert_eq!((byte(&source, 3), byte(&source, 0)), (7, 7), "the source's page was written");
    ram.own().unwrap_or_else(|e| panic!("{e}"));
    ram.write_pages(slot, 3, &vec![1; page.len()]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(byte(&source, 3), 1);
}

#[test]
fn pages_that_arrive_are_what_the_guest_sees_and_are_marked() {
    let (ram, slot, size) = of_64_mib();
    let page = usize::try_from(size.bytes()).unwrap_or(usize::MAX);
    // In the mapping already.
    ram.write_pages(slot, 6, &vec![1; page]).unwrap_or_else(|e| panic!("{e}"));
    ram.fill_pages(slot, 5, &vec![7; 3 * page]).unwrap_or_else(|e| panic!("{e}"));
    let mut bytes = vec![9; 5 * page];
    ram.read_pages(slot, 4, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
    let log = ram.log().slot(slot).unwrap_or_else(|| unreachable!("every slot has one"));
    for (offset, bytes) in (4..).zip(bytes.chunks(page)) {
        let arrived = (5..8).contains(&offset);
        let wanted = if arrived { 7 } else { 0 };
        assert!(bytes.iter().all(|byte| *byte == wanted), "page {offset}");
        assert_eq!(log.is_marked(offset << size.shift()), arrived, "page {offset}");
    }
    assert!(
        ram.fill_pages(slot, (64 << 20 >> size.shift()) - 1, &vec![7; 2 * page]).is_err(),
        "past the end"
    );
}

/// As after swapping, or a restart of whoever mapped it: data that this process has not mapped is data.
#[test]
fn a_page_that_is_not_mapped_here_is_no_hole() {
    let (ram, slot, size) = of_64_mib();
    ram.file.write_all_at(b"data", 3 * size.bytes()).unwrap_or_else(|e| panic!("{e}"));
    let present = ram.present().unwrap_or_else(|e| panic!("{e}"));
    assert!(present.contains(slot, 3), "page 3 holds data and was taken for a hole");
    assert_eq!(present.len(), 1);
}
