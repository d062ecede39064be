use std::sync::{Mutex, PoisonError};

use super::*;

/// A disk that insists on what direct writes demand.
#[derive(Debug, Default)]
struct Strict {
    bytes: Mutex<Vec<u8>>,
    /// Direct and plain writes, by their lengths.
    direct: Mutex<Vec<usize>>,
    plain: Mutex<Vec<usize>>,
    /// Direct writes until one is refused.
    patience: Option<usize>,
}

impl Strict {
    fn take(&self, of: &Mutex<Vec<usize>>, bytes: &[u8]) {
        of.lock().unwrap_or_else(PoisonError::into_inner).push(bytes.len());
        self.bytes.lock().unwrap().extend_from_slice(bytes);
    }
}

impl DiskFile for Strict {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.take(&self.plain, bytes);
        Ok(())
    }

    fn append_direct(&self, pieces: &[&[u8]]) -> io::Result<bool> {
        assert!(!pieces.is_empty() && pieces.iter().all(|p| !p.is_empty() && p.len().is_multiple_of(BLOCK)));
        assert!(pieces.iter().all(|p| p.as_ptr().addr().is_multiple_of(BLOCK)));
        assert_eq!(self.bytes.lock().unwrap().len() % BLOCK, 0);
        if self.patience == Some(self.direct.lock().unwrap().len()) {
            return Ok(false);
        }
        self.take(&self.direct, &pieces.concat());
        Ok(true)
    }

    fn start_sync(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends stretches of these lengths, each `phase` bytes behind a block in memory; what the disk has then.
fn write(durability: Durability, patience: Option<usize>, lens: &[usize], phase: usize) -> Arc<Strict> {
    let disk = Arc::new(Strict { patience, ..Strict::default() });
    let mut stream = Stream::new(Arc::<Strict>::clone(&disk), durability);
    let mut all = Vec::new();
    for (len, seed) in lens.iter().zip(1usize..) {
        let mut bytes = Aligned::new(*len, phase);
        bytes.extend(&(0..*len).map(|i| (i % 253 * seed).to_le_bytes()[0]).collect::<Vec<u8>>());
        stream.append(&bytes).unwrap();
        all.extend_from_slice(&bytes);
    }
    stream.finish().unwrap();
    stream.sync().unwrap();
    assert!(*disk.bytes.lock().unwrap() == all, "{durability:?} {patience:?} {lens:?} {phase}");
    disk
}

/// Stretches as packs have them: a header, pages, a table; and such as hit every boundary.
const SHAPES: [&[usize]; 9] = [
    &[],
    &[1],
    &[16, LARGE - 16],
    &[16, LARGE - 17],
    &[16, STAGED, STAGED, 40 * 100],
    &[16, STAGED + 5, LARGE, 3, LARGE + BLOCK, 7],
    &[STAGED - 1, 2, STAGED - 1, LARGE],
    &[BLOCK, LARGE, BLOCK, LARGE - 1],
    &[16, 100_000, 100_000, 3 * STAGED + 1, 9_000],
];

#[test]
fn every_length_and_place_in_memory_arrives() {
    for lens in SHAPES {
        for phase in [0, 16, BLOCK - 1] {
            for patience in [None, Some(0), Some(1)] {
                write(Durability::Full, patience, lens, phase);
            }
        }
    }
}

#[test]
fn large_stretches_are_written_from_where_they_are_and_the_end_plainly() {
    let disk = write(Durability::Full, None, &[16, STAGED, STAGED, 4000], 16);
    assert_eq!(*disk.direct.lock().unwrap(), [STAGED, STAGED]);
    assert_eq!(*disk.plain.lock().unwrap(), [16 + 4000]);
}

#[test]
fn small_files_take_one_plain_write() {
    let disk = write(Durability::Full, None, &[16, 4096, 40, 40], 0);
    assert!(disk.direct.lock().unwrap().is_empty());
    assert_eq!(*disk.plain.lock().unwrap(), [16 + 4096 + 40 + 40]);
}

#[test]
fn what_need_not_be_durable_is_never_written_directly() {
    let disk = write(Durability::None, None, &[16, STAGED, STAGED], 16);
    assert!(disk.direct.lock().unwrap().is_empty());
}

#[test]
fn a_file_system_without_direct_writes_is_asked_once() {
    let disk = write(Durability::Full, Some(0), &[16, STAGED, STAGED, STAGED, 4000], 16);
    assert!(disk.direct.lock().unwrap().is_empty());
    assert_eq!(disk.plain.lock().unwrap()[..2], [16 + 4080, STAGED - BLOCK]);
    assert_eq!(disk.plain.lock().unwrap()[2..], [16, STAGED, STAGED, 4000]);
}
