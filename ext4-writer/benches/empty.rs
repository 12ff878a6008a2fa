//! Empty filesystems beside mke2fs: `cargo bench -p ext4-writer`. Prints how often faster the
//! library call is.
#![allow(
    missing_docs,
    reason = "what criterion_group makes has no documentation"
)]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ext4_writer::{Builder, Options};

const SIZES: [(&str, u64); 3] = [("4G", 4 << 30), ("64G", 64 << 30), ("1T", 1 << 40)];

/// An image as long as it will be, which both then write.
fn empty_file(path: &Path, size: u64) -> File {
    let _ = std::fs::remove_file(path);
    let file = File::create_new(path).unwrap();
    file.set_len(size).unwrap();
    file
}

fn create(path: &Path, size: u64) -> Duration {
    let file = empty_file(path, size);
    let start = Instant::now();
    Builder::new(file, Options::new(size))
        .unwrap()
        .finish()
        .unwrap();
    start.elapsed()
}

fn mke2fs(path: &Path, size: u64) -> Option<Duration> {
    empty_file(path, size);
    let start = Instant::now();
    let status = Command::new("mke2fs")
        .args(["-F", "-q", "-t", "ext4"])
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .ok()?;
    assert!(status.success());
    Some(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn empty(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.ext4");
    let mut group = c.benchmark_group("empty");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    for (name, size) in SIZES {
        group.bench_function(format!("library {name}"), |b| {
            b.iter_custom(|n| (0..n).map(|_| create(&path, size)).sum());
        });
    }
    group.finish();
    // One after the other, so that what else the machine does slows both.
    for (name, size) in SIZES {
        let pairs: Option<Vec<_>> = (0..5)
            .map(|_| Some((create(&path, size), mke2fs(&path, size)?)))
            .collect();
        let Some(pairs) = pairs else {
            println!("no mke2fs to compare with");
            return;
        };
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let (ours, theirs) = (median(ours), median(theirs));
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        println!("{name}: {ours:?}, mke2fs {theirs:?}: {ratio:.1} times as fast");
    }
}

criterion_group!(benches, empty);
criterion_main!(benches);
