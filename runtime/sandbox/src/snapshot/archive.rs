//! A snapshot as one file: a PAX archive of its record and its sparse disk, compressed with zstd.
//! GNU tar and zstd can read it, too.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blockbox_net::Mode;
use blockbox_store::snapshot::{FILE, Snapshot as Record};
use blockbox_store::spec::{MountSource, Spec};
use blockbox_store::{Meter, Store, UPPER, atomic, sparse};
use blockbox_tar::{Entry, Head, Limits, Map, Reader, Source, Timestamp, What, Writer};

use super::{Snapshot, claim};
use crate::error::{Error, Result};
use crate::root::image;
use crate::upper::create_copy;

/// The largest record, in bytes.
const RECORD_LIMIT: u64 = 1 << 20;

/// Limits for an archive: two files, and at most 16 MiB of memory for the ranges of a disk.
const LIMITS: Limits = Limits {
    entries: 16,
    extended_header_bytes: 1 << 20,
    file_bytes: 1 << 50,
    sparse_ranges: 1 << 20,
};

/// The compression level.
const LEVEL: i32 = 3;

impl Snapshot {
    /// Writes the snapshot to `out`, in the form that [`import`](Self::import) reads. It includes
    /// neither the image's layers nor the memory: memory fits few hosts, holds secrets of programs,
    /// and QEMU trusts the machine state that it loads.
    ///
    /// # Errors
    ///
    /// Those of reading the disk and of `out`.
    pub fn export(&self, out: impl Write) -> Result<()> {
        let failed = || Error::io(self.upper());
        let path = self.upper();
        let upper = File::open(&path).map_err(failed())?;
        let mut record = self.record.clone();
        record.memory = None;
        record.warm = false;
        let mut record = serde_json::to_vec_pretty(&record).map_err(|e| failed()(e.into()))?;
        record.push(b'\n');
        let write = || {
            let compressed = zstd::Encoder::new(BufWriter::new(out), LEVEL)?;
            let mut tar = Writer::new(compressed);
            let length = record.len() as u64;
            tar.file(&head(FILE), length, &whole(length), &record[..])?;
            let size = upper.metadata()?.len();
            let ranges = sparse::data(&upper, size).collect::<io::Result<Vec<_>>>()?;
            tar.file(&head(UPPER), size, &ranges, Data::new(&upper, &ranges))?;
            tar.finish()?.finish()?.flush()
        };
        write().map_err(Error::copying(&path))
    }

    /// Reads a snapshot that [`export`](Self::export) wrote, under its own name or `name`, and
    /// verifies it. Its image must be in the store.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotExists`]; [`Error::SnapshotArchive`] for other bytes;
    /// [`Error::SnapshotDamaged`] if the disk does not match the record; if the store does not have
    /// the image. Nothing is left behind.
    pub fn import(store: &Store, name: Option<&str>, input: impl Read) -> Result<Self> {
        let _access = store.share()?;
        let decoder = zstd::Decoder::new(input).map_err(|error| not_one(&error))?;
        let mut tar = Reader::new(Source::new(BufReader::new(decoder)), LIMITS);
        let path = Path::new(FILE);
        let mut record = Record::parse(&record(&mut tar)?, path)?;
        if let Some(name) = name {
            name.clone_into(&mut record.name);
        }
        // An archive holds no memory.
        record.memory = None;
        harmless(&mut record.spec);
        let _claim = claim(store, &record.name)?;
        image(store, &record.spec)?;
        let snapshot = Self::new(store, record);
        atomic::write_folder(&store.snapshot(&snapshot.record.name), |folder| {
            let path = folder.join(UPPER);
            let upper = create_copy(&path)?;
            disk(&mut tar, &upper, &path)?;
            snapshot.check(&upper, &Meter::default())?;
            atomic::finish(&upper, &path)?;
            snapshot.record.write(folder)?;
            Ok::<_, Error>(())
        })?;
        Ok(snapshot)
    }
}

/// Removes what refers to the original host from a specification, such as shared folders, secrets
/// and network rules: here it would refer to this host, and the archive is not trusted.
fn harmless(spec: &mut Spec) {
    spec.mounts.retain(|mount| {
        !matches!(
            mount.source,
            MountSource::Bind { .. } | MountSource::Volume { .. }
        )
    });
    spec.secrets.clear();
    spec.machine.kernel = None;
    spec.machine.confine = true;
    spec.network.allow.clear();
    spec.network.host_ports.clear();
    spec.network.publish.clear();
    if spec.network.mode == Mode::All {
        spec.network.mode = Mode::Public;
    }
}

fn not_one(reason: &dyn std::fmt::Display) -> Error {
    Error::SnapshotArchive {
        reason: reason.to_string(),
    }
}

/// Reads the first entry, the record.
fn record(tar: &mut Reader<impl BufRead>) -> Result<Vec<u8>> {
    let map = file(tar, FILE)?;
    if map.size > RECORD_LIMIT {
        return Err(not_one(&format_args!("its {FILE} has {} bytes", map.size)));
    }
    let mut bytes = Vec::new();
    let read = (&mut tar.source).take(map.size).read_to_end(&mut bytes);
    read.map_err(|error| not_one(&error))?;
    let padding = tar.source.padding(map.stored());
    padding.map_err(|error| not_one(&error))?;
    Ok(bytes)
}

/// Reads the second entry, the disk, into the empty file `upper`.
fn disk(tar: &mut Reader<impl BufRead>, upper: &File, path: &Path) -> Result<()> {
    let map = file(tar, UPPER)?;
    upper.set_len(map.size).map_err(Error::io(path))?;
    let mut output = upper;
    for (start, length) in map.ranges {
        output
            .seek(SeekFrom::Start(start))
            .map_err(Error::io(path))?;
        let copied = io::copy(&mut (&mut tar.source).take(length), &mut output);
        if copied.map_err(Error::io(path))? < length {
            return Err(not_one(&"it ends too early"));
        }
    }
    Ok(())
}

/// Returns the next entry, which must be a file with this name.
fn file(tar: &mut Reader<impl BufRead>, name: &str) -> Result<Map> {
    let entry = tar.next(|_| ()).map_err(|error| not_one(&error))?;
    match entry {
        Some(Entry {
            path,
            what: What::File(map),
            ..
        }) if path == name.as_bytes() => Ok(map),
        _ => Err(not_one(&format_args!("it has no {name} where one belongs"))),
    }
}

/// Reads ranges of a file in order.
struct Data<'a> {
    file: &'a File,
    ranges: std::slice::Iter<'a, Range<u64>>,
    now: Range<u64>,
}

impl<'a> Data<'a> {
    fn new(file: &'a File, ranges: &'a [Range<u64>]) -> Self {
        Self {
            file,
            ranges: ranges.iter(),
            now: 0..0,
        }
    }
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.ranges.next() {
                Some(range) => self.now = range.clone(),
                None => return Ok(0),
            }
        }
        let left = usize::try_from(self.now.end - self.now.start).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..length], self.now.start)?;
        if count == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.now.start += count as u64;
        Ok(count)
    }
}

fn head(path: &str) -> Head<'_> {
    Head {
        path: path.as_bytes(),
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: Timestamp { secs: 0, nanos: 0 },
        xattrs: Vec::new(),
    }
}

#[expect(
    clippy::single_range_in_vec_init,
    reason = "one range is what a whole file is"
)]
fn whole(length: u64) -> [Range<u64>; 1] {
    [0..length]
}
