//! How fast an image is written, part by part, and how much memory a large tree takes.
//!
//! `cargo bench -p erofs-writer`; with a name, only what has it in its own:
//! `cargo bench -p erofs-writer compress`.

#![allow(missing_docs, reason = "criterion makes public functions")]

use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::process::Command;

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use erofs_writer::{
    Algorithm, BlockSize, Builder, Compression, Error, FileData, Fragments, Metadata, Node,
    Options, Timestamp,
};

/// Bytes an inode while an image is built, names not counted: what the crate promises.
const BYTES: u64 = 300;
/// The variable of the environment that names what this process is to measure the memory of.
const MEMORY_OF: &str = "EROFS_WRITER_MEMORY_OF";

/// An output that keeps nothing.
#[derive(Default)]
struct Nowhere {
    position: u64,
    end: u64,
}

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.position += bytes.len() as u64;
        self.end = self.end.max(self.position);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Nowhere {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// An image of so many inodes, twenty in a directory, each with a time of its own and, where
/// contents are compressed, contents of its own, which may come when all names are there; and the
/// bytes of their names.
fn tree(inodes: usize, options: Options, later: bool) -> Result<(Builder<Nowhere>, u64), Error> {
    let own = options.compression.map(|_| words(4200));
    let mut image = Builder::new(Nowhere::default(), options)?;
    let mut directory = image.root();
    let mut names = 0;
    let mut data = image.data();
    data.write_all(b"contents")?;
    let same = data.finish()?;
    let store = |image: &mut Builder<Nowhere>, i: u64| {
        let Some(own) = &own else { return Ok(same) };
        let mut data = image.data();
        data.write_all(&i.to_le_bytes())?;
        data.write_all(own)?;
        data.finish()
    };
    for i in 0..inodes {
        let meta = Metadata::new(0o755).mtime(Timestamp {
            secs: i as i64,
            nanos: 0,
        });
        let (name, parent, node) = match i % 20 {
            0 => (format!("directory{i}"), image.root(), Node::Directory),
            _ => {
                let contents = match later {
                    true => FileData::later(i as u64),
                    false => store(&mut image, i as u64)?,
                };
                (format!("file{i}"), directory, Node::File(contents))
            }
        };
        let added = image.add(parent, name.as_bytes(), meta, node)?;
        if i % 20 == 0 {
            directory = added;
        }
        names += name.len() as u64;
    }
    image.store_later(store)?;
    Ok((image, names))
}

/// The peak memory of this process in bytes, where the system reports it.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// What images of many inodes are made with, and whether contents come when all names are there.
/// Tails after inodes are not among it: they are kept in memory themselves.
fn forms() -> [(&'static str, Options, bool); 7] {
    let compressed = Options::default()
        .block_size(BlockSize::B4096)
        .compression(Some(Compression::new(Algorithm::Lz4)));
    let fragments = |fragments| compressed.clone().fragments(fragments);
    [
        ("plain", Options::default(), false),
        ("plain, contents later", Options::default(), true),
        ("tails as fragments", fragments(Fragments::Tails), false),
        ("files as fragments", fragments(Fragments::Files), false),
        ("dedupe", compressed.clone().dedupe_extents(true), false),
        ("compressed", compressed.clone(), false),
        ("compressed, contents later", compressed, true),
    ]
}

/// Measures each form in a process of its own, as the peak of what came before would count. Fails
/// where a promise is not kept.
fn memory(_: &mut Criterion) {
    for (form, ..) in forms() {
        let status = std::env::current_exe()
            .and_then(|bench| Command::new(bench).env(MEMORY_OF, form).status())
            .expect("this program runs once more");
        assert!(status.success(), "{form}");
    }
}

fn measure_memory(form: &str) {
    const INODES: u64 = 1_000_000;
    let forms = forms();
    let (_, options, later) = forms
        .iter()
        .find(|(name, ..)| *name == form)
        .expect("a form");
    let Some(before) = peak() else { return };
    let (image, names) = tree(INODES as usize, options.clone(), *later).expect("a tree");
    image.finish().expect("an image");
    let bytes = peak().expect("as before").saturating_sub(before + names) / INODES;
    println!("1,000,000 inodes, {form}: {bytes} bytes an inode at most; names not counted");
    assert!(bytes <= BYTES, "more than {BYTES} bytes an inode");
}

fn names(criterion: &mut Criterion) {
    const INODES: usize = 100_000;
    let mut group = criterion.benchmark_group("names");
    group.throughput(Throughput::Elements(INODES as u64));
    group.bench_function("add", |bencher| {
        bencher.iter(|| tree(INODES, Options::default(), false))
    });
    group.bench_function("finish", |bencher| {
        bencher.iter_batched(
            || tree(INODES, Options::default(), false).expect("a tree").0,
            |image| image.finish().expect("an image").1,
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Stores all of `contents` in files of `size` bytes.
fn store<W: Write + Seek>(
    image: &mut Builder<W>,
    contents: &[u8],
    size: usize,
) -> Result<Vec<FileData>, Error> {
    let one = |file: &[u8]| {
        let mut data = image.data();
        data.write_all(file)?;
        data.finish()
    };
    contents.chunks(size).map(one).collect()
}

fn contents(criterion: &mut Criterion) {
    const FILE: usize = 16 << 10;
    let bytes = words(16 << 20);
    let mut group = criterion.benchmark_group("contents");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("plain", |bencher| {
        bencher.iter(|| {
            let mut image = Builder::new(Nowhere::default(), Options::default())?;
            store(&mut image, &bytes, FILE)
        });
    });
    group.bench_function("inline-tails", |bencher| {
        bencher.iter(|| {
            let options = Options::default().inline_tails(true);
            let mut image = Builder::new(Nowhere::default(), options)?;
            store(&mut image, &bytes, FILE + 77)
        });
    });
    group.bench_function("equal", |bencher| {
        let twice = [&bytes[..], &bytes].concat();
        bencher.iter(|| {
            let out = Cursor::new(Vec::with_capacity(bytes.len() * 2));
            let mut image = Builder::with_dedupe(out, Options::default())?;
            store(&mut image, &twice, FILE)
        });
    });
    group.finish();
}

fn compress(criterion: &mut Criterion) {
    let bytes = words(2 << 20);
    let mut group = criterion.benchmark_group("compress");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (algorithm, level) in [
        (Algorithm::Lz4, 0),
        (Algorithm::Lz4, 9),
        (Algorithm::Zstd, 3),
        (Algorithm::Deflate, 6),
        (Algorithm::Lzma, 6),
    ] {
        let mut compression = Compression::new(algorithm);
        compression.level = level;
        compression.cluster_size = 64 << 10;
        let options = Options::default()
            .block_size(BlockSize::B4096)
            .compression(Some(compression))
            .threads(NonZeroUsize::new(1));
        group.bench_function(format!("{algorithm},{level}"), |bencher| {
            bencher.iter(|| {
                let mut image = Builder::new(Nowhere::default(), options.clone())?;
                let data = store(&mut image, &bytes, bytes.len())?;
                image.add_path(b"file", Metadata::new(0o755), Node::File(data[0]))?;
                image.finish().map(|(_, summary)| summary)
            });
        });
    }
    group.finish();
}

/// Text of words of different frequency, the same every time.
fn words(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Small numbers are commoner.
        let word = (state >> 20).min(state >> 8 & 0xfff);
        let _ = write!(text, "{word:x} ");
    }
    text.truncate(length);
    text
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = memory, names, contents, compress
}

fn main() {
    match std::env::var(MEMORY_OF) {
        Ok(form) => measure_memory(&form),
        Err(_) => benches(),
    }
}
