//! What libFuzzer does, for a bounded time and on the stable toolchain: mutations of seeds, without its eye for coverage.

/// xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "below a usize")]
        let below = (self.next() % end.max(1) as u64) as usize;
        below
    }
}

/// Numbers at the edges of what fields hold.
const EDGES: [u64; 9] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// Changes a few places of `bytes` as libFuzzer would.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.next() % 7 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next().to_le_bytes()[0]),
            2 => drop((at < bytes.len()).then(|| bytes.remove(at))),
            3 => {
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = 1 << random.below(4);
                bytes[at..].iter_mut().zip(&edge[..width]).for_each(|(byte, edge)| *byte = *edge);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (random.next() % 8);
                }
            }
        }
    }
}

/// Calls `target` with each of `seeds`, of which there are two or more, and with `rounds` mutations of them, the same in
/// every run. The environment variable `RINGMARK_FUZZ_ROUNDS` is another number of rounds.
///
/// # Panics
/// With too few seeds, and where `target` does.
pub fn fuzz(target: impl Fn(&[u8]), seeds: &[Vec<u8>], rounds: u64) {
    let rounds = std::env::var("RINGMARK_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(rounds);
    assert!(seeds.len() >= 2);
    seeds.iter().for_each(|seed| target(seed));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut corpus = seeds.to_vec();
    for round in 0..rounds {
        // What was changed often is mostly refused at once.
        let from = if round % 2 == 0 { seeds } else { &corpus[..] };
        let mut bytes = from[random.below(from.len())].clone();
        let other = random.below(seeds.len());
        mutate(&mut bytes, &seeds[other], &mut random);
        target(&bytes);
        // Changes of changes reach further; the seeds stay.
        if round % 16 == 1 {
            if corpus.len() < seeds.len() + 256 {
                corpus.push(bytes);
            } else {
                let at = seeds.len() + random.below(corpus.len() - seeds.len());
                corpus[at] = bytes;
            }
        }
    }
}
