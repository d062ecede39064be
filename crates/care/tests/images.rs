//! Care of whole stores, against naive oracles.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use ringmark_care::core::{Architecture, Core, CoreError};
use ringmark_care::diff::{DiffError, Run, diff};
use ringmark_care::export::{ExportError, elf, raw};
use ringmark_care::family::{forest, freed, freed_by_each, orphans};
use ringmark_care::flatten::flatten;
use ringmark_care::heat::Heat;
use ringmark_care::import::{Import, ImportError, Region, import};
use ringmark_care::prune::{Plan, prune};
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_image::{ImageId, ImageSpec, Layout, Listing, PackUse, Store, Summary};
use tempfile::TempDir;

const PAGE: usize = 4096;
const LOW: SlotId = SlotId::new(0, 1);
const HIGH: SlotId = SlotId::new(0, 0);
/// Pages of the two memslots; their names and their addresses are in opposite order.
const SLOTS: [(SlotId, u64, usize); 2] = [(LOW, 0x10, 40), (HIGH, 0x100, 24)];

fn page_size() -> PageSize {
    PageSize::new(PAGE as u64).unwrap()
}

fn layout() -> Layout {
    let slot =
        |(id, base, pages): (SlotId, u64, usize)| Memslot { id, base: Gfn(base), npages: pages as u64 };
    Layout::new(page_size(), SlotTable::new(SLOTS.map(slot)).unwrap()).unwrap()
}

/// Memory by guest-physical page number; a page is a word repeated with its number in front, or zero.
type Memory = BTreeMap<u64, u8>;

fn page(gfn: u64, value: u8) -> Vec<u8> {
    let mut page = vec![value; PAGE];
    if value != 0 {
        page[..8].copy_from_slice(&gfn.to_le_bytes());
    }
    page
}

fn zeroed() -> Memory {
    SLOTS.iter().flat_map(|(_, base, pages)| (0..*pages as u64).map(move |page| (base + page, 0))).collect()
}

fn gfns() -> Vec<u64> {
    zeroed().into_keys().collect()
}

fn place(gfn: u64) -> (SlotId, u64) {
    let (slot, base, _) =
        SLOTS.iter().find(|(_, base, pages)| (*base..base + *pages as u64).contains(&gfn)).unwrap();
    (*slot, gfn - base)
}

struct Fixture {
    dir: TempDir,
    store: Store,
    clock: SystemTime,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path().join("store")).unwrap();
        Self { dir, store, clock: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30) }
    }

    /// An image of `memory` of the machine `vm`, a minute after the last; an increment puts what differs from `before`.
    fn image(&mut self, vm: &str, parent: Option<(ImageId, &Memory)>, memory: &Memory) -> ImageId {
        self.clock += Duration::from_secs(60);
        let spec = ImageSpec {
            vm: vm.into(),
            parent: parent.map(|(id, _)| id),
            layout: layout(),
            created: self.clock,
        };
        let mut writer = self.store.begin(spec).unwrap();
        for (gfn, value) in memory {
            if parent.is_none_or(|(_, before)| before[gfn] != *value) {
                let (slot, offset) = place(*gfn);
                writer.put(slot, offset, &page(*gfn, *value)).unwrap();
            }
        }
        writer.put_state("machine", vm.as_bytes()).unwrap();
        writer.put_state("working-set", b"set").unwrap();
        writer.finish().unwrap().id
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn holds(&self, id: ImageId, memory: &Memory) {
        let image = self.store.image(id).unwrap();
        image.verify(true).unwrap();
        let mut found = vec![0; PAGE];
        for (gfn, value) in memory {
            let (slot, offset) = place(*gfn);
            image.page(slot, offset, &mut found).unwrap();
            assert!(found == page(*gfn, *value), "page {gfn:#x} of {id}");
        }
    }
}

fn memories() -> impl Strategy<Value = (Memory, Memory)> {
    let values = || proptest::collection::vec(prop_oneof![Just(0u8), 1..4u8], gfns().len());
    (values(), values(), proptest::collection::vec(any::<bool>(), gfns().len())).prop_map(|(a, b, same)| {
        let before: Memory = gfns().into_iter().zip(a.iter().copied()).collect();
        let after = b.iter().zip(&a).zip(&same).map(|((b, a), same)| if *same { *a } else { *b });
        let after = gfns().into_iter().zip(after).collect();
        (before, after)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Runs, pictures and a flattened image against a comparison page by page.
    #[test]
    fn differences_are_those_of_the_memories((before, after) in memories(), columns in 1usize..40, rows in 1usize..20) {
        let mut fixture = Fixture::new();
        let a = fixture.image("vm", None, &before);
        let b = fixture.image("vm", Some((a, &before)), &after);
        let (image_a, image_b) = (fixture.store.image(a).unwrap(), fixture.store.image(b).unwrap());
        let expected: BTreeSet<u64> = gfns().into_iter().filter(|gfn| before[gfn] != after[gfn]).collect();
        for (a, b) in [(&image_a, &image_b), (&image_b, &image_a)] {
            let runs = diff(a, b).unwrap();
            let found: Vec<u64> = runs
                .iter()
                .flat_map(|run| {
                    let first = run.address / PAGE as u64;
                    assert_eq!(place(first), (run.slot, run.first));
                    first..first + run.pages
                })
                .collect();
            prop_assert!(found.is_sorted());
            prop_assert_eq!(&found.into_iter().collect::<BTreeSet<_>>(), &expected);
            // No two runs of a memslot touch.
            let apart = |pair: &[Run]| {
                pair[0].slot != pair[1].slot || pair[0].first + pair[0].pages < pair[1].first
            };
            prop_assert!(runs.windows(2).all(apart));

            let heat = Heat::new(&layout(), &runs, columns, rows);
            let text = heat.to_string();
            let drawn = text.lines().filter(|line| line.starts_with("0x")).count();
            prop_assert!(drawn <= rows.max(2), "{}", text);
            let cells: String = text.lines().filter(|line| line.starts_with("0x")).collect();
            prop_assert_eq!(cells.contains(['░', '▒', '▓', '█']), !expected.is_empty(), "{}", cells);
            prop_assert!(text.lines().filter(|line| line.starts_with("0x")).all(|line| line.chars().count() <= Heat::MARGIN + columns));
        }
        let flat = flatten(&fixture.store, &image_b).unwrap();
        prop_assert!(diff(&image_b, &fixture.store.image(flat.id).unwrap()).unwrap().is_empty());
        fixture.store.remove(&[a, b]).unwrap();
        fixture.holds(flat.id, &after);
        let flat = fixture.store.image(flat.id).unwrap();
        prop_assert_eq!(flat.summary().parent, None);
        prop_assert_eq!(flat.summary().created(), image_b.summary().created());
        prop_assert_eq!(flat.state_names().collect::<Vec<_>>(), ["machine", "working-set"]);
        prop_assert_eq!(flat.state("working-set").unwrap(), b"set");
    }

    /// Out to a file, and in again.
    #[test]
    fn memory_comes_back_from_a_file((memory, _) in memories()) {
        let mut fixture = Fixture::new();
        let id = fixture.image("vm", None, &memory);
        let image = fixture.store.image(id).unwrap();
        let path = fixture.file("memory.raw");
        let exported = raw(&image, &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        prop_assert_eq!(exported.length, bytes.len() as u64);
        prop_assert_eq!(bytes.len(), 0x118 * PAGE);
        for (gfn, chunk) in (0..).zip(bytes.chunks(PAGE)) {
            prop_assert!(chunk == page(gfn, memory.get(&gfn).copied().unwrap_or(0)), "{:#x}", gfn);
        }
        let meta = fs::metadata(&path).unwrap();
        prop_assert!(meta.blocks() * 512 <= exported.written + (64 << 10), "it is not sparse");
        prop_assert_eq!(meta.mode() & 0o777, 0o600);
        let again = raw(&image, &path);
        prop_assert!(matches!(again, Err(ExportError::Exists(_))));

        let regions = SLOTS.map(|(_, base, pages)| Region { start: base * PAGE as u64, length: (pages * PAGE) as u64 });
        let request = Import { file: &path, vm: "again", page_size: page_size(), regions: &regions, created: fixture.clock };
        let imported = import(&fixture.store, &request).unwrap();
        let imported = fixture.store.image(imported.id).unwrap();
        prop_assert_eq!(imported.state_names().count(), 0);
        let back = fixture.file("back.raw");
        raw(&imported, &back).unwrap();
        prop_assert!(fs::read(back).unwrap() == bytes);
    }
}

#[test]
fn what_cannot_be_imported() {
    let fixture = Fixture::new();
    let path = fixture.file("memory.raw");
    fs::write(&path, vec![1; 3 * PAGE + 1]).unwrap();
    let try_with = |regions: &[(u64, u64)]| {
        let regions: Vec<Region> =
            regions.iter().map(|(start, length)| Region { start: *start, length: *length }).collect();
        let request = Import {
            file: &path,
            vm: "vm",
            page_size: page_size(),
            regions: &regions,
            created: SystemTime::now(),
        };
        import(&fixture.store, &request)
    };
    let page = PAGE as u64;
    assert!(matches!(try_with(&[]), Err(ImportError::Unaligned { .. })));
    assert!(matches!(try_with(&[(0, 0)]), Err(ImportError::Unaligned { .. })));
    assert!(matches!(try_with(&[(1, page)]), Err(ImportError::Unaligned { .. })));
    assert!(matches!(try_with(&[(0, 4 * page)]), Err(ImportError::TooShort { .. })));
    assert!(matches!(try_with(&[(u64::MAX - page + 1, page)]), Err(ImportError::TooShort { .. })));
    assert!(matches!(try_with(&[(0, 2 * page), (page, page)]), Err(ImportError::Slots(_))));
    assert!(fixture.store.list().unwrap().images.is_empty());
    assert_eq!(try_with(&[(page, 2 * page)]).unwrap().pages, 2);
}

#[test]
fn images_of_other_layouts_are_not_compared() {
    let mut fixture = Fixture::new();
    let a = fixture.image("vm", None, &zeroed());
    let path = fixture.file("memory.raw");
    fs::write(&path, vec![1; PAGE]).unwrap();
    let request =
        Import { file: &path, vm: "vm", page_size: page_size(), regions: &[], created: fixture.clock };
    let b = import(&fixture.store, &request).unwrap().id;
    let (a, b) = (fixture.store.image(a).unwrap(), fixture.store.image(b).unwrap());
    assert!(matches!(diff(&a, &b), Err(DiffError::Layout { .. })));
}

#[test]
fn pictures() {
    let mut fixture = Fixture::new();
    let before = zeroed();
    let a = fixture.image("vm", None, &before);
    let mut after = before.clone();
    // Half of the second memslot, one page of the first.
    after.iter_mut().filter(|(gfn, _)| **gfn >= 0x10c || **gfn == 0x11).for_each(|(_, value)| *value = 1);
    let b = fixture.image("vm", Some((a, &before)), &after);
    let runs = diff(&fixture.store.image(a).unwrap(), &fixture.store.image(b).unwrap()).unwrap();
    let heat = Heat::new(&layout(), &runs, 8, 4);
    assert_eq!(heat.cell_bytes(), 4 * PAGE as u64);
    let expected = "\
        memslot 1\n\
        0x0000000000010000 │░·······│\n\
        0x0000000000030000 │··      │\n\
        memslot 0\n\
        0x0000000000100000 │···███  │\n\
        a cell is 4 pages; · unchanged, ░ up to 1/4 of the pages changed, ▒ up to 1/2, ▓ up to 3/4, █ more";
    assert_eq!(heat.to_string(), expected);

    let mut picture = Vec::new();
    heat.write_png(&mut picture).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    // Three rows of cells and the gap between the memslots.
    assert_eq!((info.width, info.height), (64, 32));

    let mut picture = Vec::new();
    heat.write_svg(&mut picture).unwrap();
    let mut text = String::new();
    svg::read(std::str::from_utf8(&picture).unwrap()).unwrap();
    picture.as_slice().read_to_string(&mut text).unwrap();
    assert!(text.contains("0x10000: 1 of 4 pages"), "{text}");
    assert!(text.contains("0x10c000: 4 of 4 pages"), "{text}");
}

/// A summary as a store lists it.
fn summary(number: u8, parent: Option<u8>, packs: &[(&str, u64, bool)]) -> Summary {
    let id = |number: u8| format!("{number:02x}").repeat(32).parse::<ImageId>().unwrap();
    let own: u64 = packs.iter().filter(|(_, _, own)| *own).map(|(_, bytes, _)| bytes).sum();
    Summary {
        id: id(number),
        parent: parent.map(id),
        vm: "vm".into(),
        created_ns: u64::from(number) * 1_000_000_000,
        sequence: u64::from(number),
        memory_bytes: 0,
        page_size: 0,
        pages: 0,
        zero_pages: 0,
        repeated_pages: 0,
        unchanged_pages: 0,
        // A hundred bytes of metadata.
        bytes_stored: own + 100,
        packs: packs
            .iter()
            .map(|(name, bytes, own)| PackUse { name: (*name).into(), bytes: *bytes, pages: 1, own: *own })
            .collect(),
    }
}

fn listing(mut images: Vec<Summary>) -> Listing {
    images.reverse();
    Listing { images, damaged: Vec::new() }
}

#[test]
fn trees() {
    let images = [
        summary(1, None, &[]),
        summary(2, Some(1), &[]),
        summary(3, Some(2), &[]),
        summary(4, Some(2), &[]),
        summary(5, Some(3), &[]),
        summary(6, Some(3), &[]),
        summary(7, Some(4), &[]),
        summary(8, Some(99), &[]),
    ];
    // In whatever order they come.
    let given: Vec<&Summary> = images.iter().rev().collect();
    let drawn: Vec<String> =
        forest(&given).iter().map(|member| format!("{}{}", member.lines(), member.image.sequence)).collect();
    assert_eq!(drawn, ["1", "2", "├─3", "│ ├─5", "│ └─6", "└─4", "  7", "8"]);
    let orphan = forest(&given).into_iter().find(|member| member.image.sequence == 8).unwrap();
    assert!(!orphan.has_parent && orphan.image.parent.is_some());
}

#[test]
fn chains_as_long_as_they_like_and_forks_as_deep() {
    let images: Vec<Summary> = (1..=200u8).map(|n| summary(n, (n > 1).then(|| n - 1), &[])).collect();
    let given: Vec<&Summary> = images.iter().collect();
    assert!(forest(&given).iter().all(|member| member.lines().is_empty()));
    // A fork at every step: a child that goes on, and one that does not.
    let parent = |n: u8| (n > 1).then(|| (n / 2 * 2 - 2).max(1));
    let forks: Vec<Summary> = (1..=200u8).map(|n| summary(n, parent(n), &[])).collect();
    let given: Vec<&Summary> = forks.iter().collect();
    assert_eq!(forest(&given).len(), 200);
}

#[test]
fn what_removing_frees() {
    let listing = listing(vec![
        summary(1, None, &[("a", 1000, true), ("b", 10, true)]),
        summary(2, Some(1), &[("a", 1000, false), ("c", 5, true)]),
        summary(3, Some(2), &[("c", 5, false), ("d", 1, true)]),
    ]);
    let id = |n: u8| listing.images.iter().find(|image| image.sequence == u64::from(n)).unwrap().id;
    let each: HashMap<ImageId, u64> = freed_by_each(&listing);
    // `a` and `c` are shared; what is nobody else's goes.
    assert_eq!([each[&id(1)], each[&id(2)], each[&id(3)]], [110, 100, 101]);
    for n in 1..=3 {
        assert_eq!(freed(&listing, &[id(n)]), each[&id(n)]);
    }
    assert_eq!(freed(&listing, &[id(1), id(2)]), 1210);
    assert_eq!(freed(&listing, &[id(1), id(2), id(3)]), 1316);
    let left = orphans(&listing, &[id(1), id(2)]);
    assert_eq!((left.len(), left[0].parent, &left[0].children[..]), (1, id(2), &[id(3)][..]));
    assert!(orphans(&listing, &[id(3)]).is_empty());
    assert_eq!(left[0].to_string(), format!("{} is the parent of {}", id(2), id(3)));
}

/// After every checkpoint the store is pruned; the survivors are whole, and the store does not grow.
#[test]
fn pruning_leaves_whole_images_and_frees_the_rest() {
    let mut fixture = Fixture::new();
    let mut other = fixture.image("other", None, &zeroed());
    let mut memory = zeroed();
    let mut history: Vec<(ImageId, Memory)> = Vec::new();
    let policy = "last=3,hourly=2".parse().unwrap();
    let mut sizes = Vec::new();
    for turn in 0..45u8 {
        let before = memory.clone();
        for (index, value) in memory.values_mut().enumerate() {
            if index % 8 == usize::from(turn) % 8 {
                *value = value.wrapping_add(turn) | 1;
            }
        }
        let parent = history.last().map(|(id, _)| (*id, &before));
        let id = fixture.image("vm", parent, &memory);
        history.push((id, memory.clone()));
        let plan = Plan::new(&fixture.store.list().unwrap(), &policy, Some("vm"));
        let leaving = plan.leaving();
        let removed = plan.carry_out(&fixture.store).unwrap();
        assert_eq!(removed.bytes, plan.frees, "what was promised is what was freed");
        assert_eq!(removed.images, leaving.len() as u64);
        history.retain(|(id, _)| !leaving.contains(id));
        assert!((1..=5).contains(&history.len()), "{}", history.len());
        history.iter().for_each(|(id, memory)| fixture.holds(*id, memory));
        sizes.push(size_of(&fixture.file("store")));
    }
    assert!(sizes[44] < 3 * sizes[20], "the store grows: {sizes:?}");
    // Another machine is judged by itself.
    fixture.holds(other, &zeroed());
    other = fixture.image("other", Some((other, &zeroed())), &zeroed());
    prune(&fixture.store, &"last=1".parse().unwrap(), None).unwrap();
    let left: BTreeSet<ImageId> =
        fixture.store.list().unwrap().images.into_iter().map(|image| image.id).collect();
    assert_eq!(left, [other, history.last().unwrap().0].into());
    fixture.holds(other, &zeroed());
}

fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { size_of(&path) } else { fs::metadata(path).unwrap().len() }).sum()
}

fn gdb(core: &Path, commands: &[&str]) -> Option<String> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-core"]).arg(core);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    match gdb.output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some(String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "SKIPPED a_core_file_opens_in_a_debugger: gdb: {error}");
            None
        }
    }
}

#[test]
fn a_core_file_opens_in_a_debugger() {
    let mut fixture = Fixture::new();
    let mut memory = zeroed();
    memory.insert(0x12, 3);
    memory.insert(0x101, 5);
    let id = fixture.image("vm", None, &memory);
    let image = fixture.store.image(id).unwrap();
    let path = fixture.file("core");
    let vcpus = vec![(100..127).collect(), (200..227).collect()];
    let core = Core { architecture: Architecture::X86_64, vcpus };
    let exported = elf(&image, &core, &path).unwrap();
    assert_eq!(exported.length, fs::metadata(&path).unwrap().len());
    let Some(said) = gdb(
        &path,
        &[
            "x/2gx 0x12000",
            "x/2gx 0x101000",
            "x/gx 0x13000",
            "x/gx 0xff000",
            "p/x $rip",
            "thread 2",
            "p $rip",
            "p $r15",
        ],
    ) else {
        return;
    };
    for line in [
        "0x12000:\t0x0000000000000012\t0x0303030303030303",
        "0x101000:\t0x0000000000000101\t0x0505050505050505",
        "0x13000:\t0x0000000000000000",
        "Cannot access memory at address 0xff000",
        "$1 = 0x74",
        "= (void (*)()) 0xd8",
        "= 200",
    ] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
}

#[test]
fn a_core_file_is_what_its_specification_says() {
    use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
    use object::{Endianness, elf as names};
    let mut fixture = Fixture::new();
    let id = fixture.image("vm", None, &zeroed());
    let image = fixture.store.image(id).unwrap();
    for (architecture, machine) in
        [(Architecture::X86_64, names::EM_X86_64), (Architecture::Aarch64, names::EM_AARCH64)]
    {
        for vcpus in [0, 1, 5] {
            let path = fixture.file(&format!("core-{architecture:?}-{vcpus}"));
            let registers = (0..architecture.registers() as u64).collect();
            let core = Core { architecture, vcpus: vec![registers; vcpus] };
            elf(&image, &core, &path).unwrap();
            let bytes = fs::read(&path).unwrap();
            let file = ElfFile64::<Endianness>::parse(&*bytes).unwrap();
            let endian = Endianness::Little;
            assert_eq!(file.elf_header().e_type(endian), names::ET_CORE);
            assert_eq!(file.elf_header().e_machine(endian), machine);
            let mut loads = Vec::new();
            let mut threads = Vec::new();
            for header in file.elf_program_headers() {
                if header.p_type(endian) == names::PT_LOAD {
                    assert_eq!(header.p_paddr(endian), header.p_vaddr(endian));
                    assert_eq!(header.p_offset(endian) % PAGE as u64, 0);
                    assert!(header.p_offset(endian) + header.p_filesz(endian) <= bytes.len() as u64);
                    loads.push((header.p_paddr(endian), header.p_memsz(endian)));
                } else {
                    let mut notes = header.notes(endian, &*bytes).unwrap().unwrap();
                    while let Some(note) = notes.next().unwrap() {
                        assert_eq!((note.name(), note.n_type(endian)), (&b"CORE"[..], names::NT_PRSTATUS));
                        // sizeof(struct elf_prstatus) of the kernel.
                        let expected = if machine == names::EM_X86_64 { 336 } else { 392 };
                        assert_eq!(note.desc().len(), expected);
                        threads.push(u32::from_le_bytes(note.desc()[32..36].try_into().unwrap()));
                    }
                }
            }
            assert_eq!(loads, [(0x10 << 12, 40 << 12), (0x100 << 12, 24 << 12)]);
            assert_eq!(threads, (1..=u32::try_from(vcpus).unwrap()).collect::<Vec<_>>());
        }
    }
    let core = Core { architecture: Architecture::X86_64, vcpus: vec![vec![0; 34]] };
    let error = elf(&image, &core, &fixture.file("none")).unwrap_err();
    assert!(matches!(error, ExportError::Core(CoreError::Registers { vcpu: 0, found: 34, expected: 27 })));
    assert!(!fixture.file("none").exists());
    assert_eq!(fs::read_dir(fixture.dir.path()).unwrap().count(), 7, "six cores and the store");
}
