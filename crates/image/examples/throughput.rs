//! How fast images are written and restored, beside a plain write and fsync of the same bytes.
//!
//! `cargo run --release -p ringmark-image --example throughput -- [DIR] [MiB]`

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_image::{ImageSpec, Layout, Store};

const PAGE: u64 = 4096;
const ROUNDS: u32 = 5;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args_os().skip(1);
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let mib: usize = args.next().and_then(|a| a.to_str()?.parse().ok()).unwrap_or(256);
    let dir = dir.join(format!("ringmark-throughput-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let result = measure(&dir, mib);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn measure(dir: &std::path::Path, mib: usize) -> Result<(), Failure> {
    let store = Store::create_or_open(dir.join("store"))?;
    let slot = SlotId::new(0, 0);
    let page_size = PageSize::new(PAGE).ok_or("page size")?;
    let npages = (mib << 20) as u64 / PAGE;
    let layout = Layout::new(page_size, SlotTable::new([Memslot { id: slot, base: Gfn(0), npages }])?)?;
    println!(
        "{mib} MiB in pages of {PAGE} bytes, {} threads, best of {ROUNDS}",
        std::thread::available_parallelism()?
    );
    println!("{:>95}", "CPU seconds a GiB");
    println!(
        "{:<16} {:>12} {:>12} {:>12} {:>12} {:>8} {:>9} {:>9}",
        "pages", "plain", "image", "of plain", "restore", "stored", "plain", "image"
    );
    for (name, memory) in [
        ("incompressible", random(mib << 20)),
        ("compressible", text(mib << 20)),
        ("zero", vec![0; mib << 20]),
    ] {
        let rate = |seconds: f64| mib as f64 / seconds;
        let (mut plain, mut image, mut back) = (f64::MAX, f64::MAX, f64::MAX);
        let mut stored = 0;
        let (mut cpu_plain, mut cpu_image) = (0.0, 0.0);
        for _ in 0..ROUNDS {
            let path = dir.join("plain");
            let used = cpu();
            let start = Instant::now();
            let mut file = File::create(&path)?;
            for chunk in memory.chunks(1 << 20) {
                file.write_all(chunk)?;
            }
            file.sync_all()?;
            plain = plain.min(start.elapsed().as_secs_f64());
            cpu_plain += cpu() - used;
            std::fs::remove_file(&path)?;
            let used = cpu();

            let start = Instant::now();
            let spec = ImageSpec {
                vm: "bench".to_owned(),
                parent: None,
                layout: layout.clone(),
                created: SystemTime::now(),
            };
            let mut writer = store.begin(spec)?;
            for (chunk, i) in memory.chunks(1 << 20).zip(0u64..) {
                writer.put(slot, i * ((1 << 20) / PAGE), chunk)?;
            }
            let finished = writer.finish()?;
            image = image.min(start.elapsed().as_secs_f64());
            cpu_image += cpu() - used;
            stored = finished.bytes_stored;

            let mut target = vec![0u8; memory.len()];
            target.fill(1);
            let start = Instant::now();
            store.image(finished.id)?.restore(|_, first, bytes| {
                let at = usize::try_from(first * PAGE)?;
                target[at..at + bytes.len()].copy_from_slice(bytes);
                Ok::<_, std::num::TryFromIntError>(())
            })?;
            back = back.min(start.elapsed().as_secs_f64());
            std::fs::remove_dir_all(store.dir().join("images").join(finished.id.to_hex()))?;
        }
        println!(
            "{name:<16} {:>6.0} MiB/s {:>6.0} MiB/s {:>10.0} % {:>6.0} MiB/s {:>6.1} % {:>9.2} {:>9.2}",
            rate(plain),
            rate(image),
            100.0 * plain / image,
            rate(back),
            100.0 * stored as f64 / memory.len() as f64,
            cpu_plain / f64::from(ROUNDS) * 1024.0 / mib as f64,
            cpu_image / f64::from(ROUNDS) * 1024.0 / mib as f64,
        );
    }
    Ok(())
}

/// Seconds of processor time that this process has used, in steps of a hundredth.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.iter().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// xorshift: nothing in it repeats within reach of a compressor.
fn random(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out
}

/// Words of a small vocabulary: compresses about as well as a guest's heap.
fn text(len: usize) -> Vec<u8> {
    let words: Vec<Vec<u8>> = random(4096).chunks(8).map(<[u8]>::to_vec).collect();
    let mut out = Vec::with_capacity(len + 8);
    for choice in random(len / 4).chunks_exact(2) {
        out.extend_from_slice(&words[usize::from(u16::from_le_bytes([choice[0], choice[1]])) % words.len()]);
    }
    out.truncate(len);
    out
}
