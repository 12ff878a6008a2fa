//! A sandbox's log: what its main command wrote, with times.
//!
//! Two files, `log` and the older `log.1`, of at most [`LIMIT`] bytes each. Each is a list of
//! entries:
//!
//! | bytes | |
//! |---|---|
//! | 4 | length of the data, at most [`MAX_ENTRY`] (little-endian) |
//! | 4 | stream: 1 is standard output, 2 standard error (little-endian) |
//! | 8 | time in nanoseconds since the epoch (little-endian) |
//! | … | data |
//!
//! Data is whatever bytes the command wrote: an entry may end within a line. A last entry that is
//! not whole, after a crash or while it is written, is not read, and the next writer cuts it off.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blockbox_store::state::now_ns;
use blockbox_vmm::guest::Stream;

/// The largest size of one log file, in bytes.
pub const LIMIT: u64 = 16 << 20;

/// The most bytes of data in one entry.
pub const MAX_ENTRY: usize = 64 << 10;

const HEADER: usize = 16;
const NAME: &str = "log";
const OLDER: &str = "log.1";

/// A piece of the main command's output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The time at which it arrived, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// The output stream; with a terminal always standard output.
    pub stream: Stream,
    /// The bytes.
    pub data: Vec<u8>,
}

/// Appends to the log of a sandbox.
#[derive(Debug)]
pub(crate) struct Writer {
    folder: PathBuf,
    file: File,
    len: u64,
    limit: u64,
}

impl Writer {
    /// Opens the log in the folder of a sandbox, whose lock the caller holds.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        Self::with_limit(folder, LIMIT)
    }

    fn with_limit(folder: &Path, limit: u64) -> io::Result<Self> {
        let path = folder.join(NAME);
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        let len = whole(&file)?;
        file.set_len(len)?;
        file.seek(SeekFrom::Start(len))?;
        Ok(Self {
            folder: folder.to_owned(),
            file,
            len,
            limit,
        })
    }

    /// Sets the sandbox's folder after a rename.
    pub(crate) fn moved(&mut self, folder: &Path) {
        self.folder = folder.to_owned();
    }

    /// Appends output with the current time.
    pub(crate) fn append(&mut self, stream: Stream, data: &[u8]) -> io::Result<()> {
        let time_ns = now_ns();
        for data in data.chunks(MAX_ENTRY) {
            let size = (HEADER + data.len()) as u64;
            if self.len > 0 && self.len + size > self.limit {
                self.rotate()?;
            }
            let mut entry = Vec::with_capacity(HEADER + data.len());
            let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
            entry.extend(length.to_le_bytes());
            entry.extend(number(stream).to_le_bytes());
            entry.extend(time_ns.to_le_bytes());
            entry.extend(data);
            if let Err(error) = self.file.write_all(&entry) {
                // On a full disk, a partial entry must not hide the next one.
                self.file.set_len(self.len)?;
                self.file.seek(SeekFrom::Start(self.len))?;
                return Err(error);
            }
            self.len += size;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = self.folder.join(NAME);
        fs::rename(&path, self.folder.join(OLDER))?;
        self.file = File::create(path)?;
        self.len = 0;
        Ok(())
    }
}

/// Returns the length of the complete entries in a file.
fn whole(file: &File) -> io::Result<u64> {
    let mut reader = Part::new(file.try_clone()?);
    while reader.next_entry()?.is_some() {}
    Ok(reader.at)
}

fn number(stream: Stream) -> u32 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

/// One file of a log.
#[derive(Debug)]
struct Part {
    reader: BufReader<File>,
    /// The offset of the next entry.
    at: u64,
}

impl Part {
    fn new(file: File) -> Self {
        Self {
            reader: BufReader::with_capacity(MAX_ENTRY + HEADER, file),
            at: 0,
        }
    }

    /// Returns the next complete entry; `None` at the current end of the file.
    fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let entry = self.read_entry()?;
        if entry.is_none() {
            // The rest of the entry may be written later.
            self.reader.seek(SeekFrom::Start(self.at))?;
        }
        Ok(entry)
    }

    fn read_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut header = [0; HEADER];
        if !fill(&mut self.reader, &mut header)? {
            return Ok(None);
        }
        let [l0, l1, l2, l3, s0, s1, s2, s3, time @ ..] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let stream = match u32::from_le_bytes([s0, s1, s2, s3]) {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            // Not an entry: later entries cannot be found any more.
            _ => return Ok(None),
        };
        if length > MAX_ENTRY {
            return Ok(None);
        }
        let mut data = vec![0; length];
        if !fill(&mut self.reader, &mut data)? {
            return Ok(None);
        }
        self.at += (HEADER + length) as u64;
        Ok(Some(Entry {
            time_ns: u64::from_le_bytes(time),
            stream,
            data,
        }))
    }
}

/// Fills `buffer`; returns `false` if the file ends before that.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}

/// Reads a log from its oldest entry, even while it is written.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    older: Option<Part>,
    current: Option<Part>,
}

impl Reader {
    /// Opens the log in the folder of a sandbox; it is empty if the sandbox was never started.
    ///
    /// # Errors
    ///
    /// If a file cannot be opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        // The current file first: if it is rotated in between, it is then found as the older one,
        // and not missed.
        let current = open(&folder.join(NAME))?;
        let mut older = open(&folder.join(OLDER))?;
        if let (Some(one), Some(other)) = (&current, &older)
            && same(one, other)?
        {
            older = None;
        }
        Ok(Self {
            folder: folder.to_owned(),
            older: older.map(Part::new),
            current: current.map(Part::new),
        })
    }

    /// Returns the next entry; `None` at the current end. Later calls return entries written since.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if let Some(part) = &mut self.older {
                match part.next_entry()? {
                    Some(entry) => return Ok(Some(entry)),
                    None => self.older = None,
                }
            }
            if let Some(part) = &mut self.current
                && let Some(entry) = part.next_entry()?
            {
                return Ok(Some(entry));
            }
            let Some(latest) = open(&self.folder.join(NAME))? else {
                return Ok(None);
            };
            match &mut self.current {
                Some(part) if same(part.reader.get_ref(), &latest)? => return Ok(None),
                // The file was rotated: entries written to it before that come first.
                Some(part) => {
                    if let Some(entry) = part.next_entry()? {
                        return Ok(Some(entry));
                    }
                    self.current = Some(Part::new(latest));
                }
                None => self.current = Some(Part::new(latest)),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match blockbox_files::open_regular(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(reader: &mut Reader) -> Vec<(Stream, Vec<u8>)> {
        std::iter::from_fn(|| reader.next_entry().unwrap())
            .map(|entry| (entry.stream, entry.data))
            .collect()
    }

    #[test]
    fn any_bytes_are_read_back_with_their_stream() {
        let folder = tempfile::tempdir().unwrap();
        let before = now_ns();
        let mut log = Writer::open(folder.path()).unwrap();
        log.append(Stream::Stdout, b"a\0\xff\n").unwrap();
        log.append(Stream::Stderr, b"").unwrap();
        log.append(Stream::Stderr, &vec![7; MAX_ENTRY + 1]).unwrap();
        let mut reader = Reader::open(folder.path()).unwrap();
        let first = reader.next_entry().unwrap().unwrap();
        assert!((before..=now_ns()).contains(&first.time_ns));
        assert_eq!(
            (first.stream, &*first.data),
            (Stream::Stdout, &b"a\0\xff\n"[..])
        );
        let rest = all(&mut reader);
        assert_eq!(rest.len(), 2);
        assert_eq!(rest[0], (Stream::Stderr, vec![7; MAX_ENTRY]));
        assert_eq!(rest[1], (Stream::Stderr, vec![7]));
    }

    #[test]
    fn an_entry_cut_off_by_a_crash_is_dropped_and_the_next_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut log = Writer::open(folder.path()).unwrap();
        log.append(Stream::Stdout, b"whole").unwrap();
        log.append(Stream::Stdout, b"torn").unwrap();
        let bytes = fs::read(&path).unwrap();
        for cut in 1..HEADER + 4 {
            fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
            let mut reader = Reader::open(folder.path()).unwrap();
            assert_eq!(all(&mut reader), [(Stream::Stdout, b"whole".to_vec())]);
            let mut log = Writer::open(folder.path()).unwrap();
            log.append(Stream::Stderr, b"next").unwrap();
            assert_eq!(all(&mut reader), [(Stream::Stderr, b"next".to_vec())]);
        }
    }

    #[test]
    fn a_reader_follows_a_log_that_is_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Writer::with_limit(folder.path(), 200).unwrap();
        let mut reader = Reader::open(folder.path()).unwrap();
        for number in 0..100u8 {
            log.append(Stream::Stdout, &[number; 30]).unwrap();
            assert_eq!(all(&mut reader), [(Stream::Stdout, vec![number; 30])]);
        }
        let bytes: u64 = [NAME, OLDER]
            .iter()
            .map(|name| fs::metadata(folder.path().join(name)).unwrap().len())
            .sum();
        assert!(bytes <= 400, "{bytes}");
        // A new reader starts with the oldest remaining entry.
        let kept = all(&mut Reader::open(folder.path()).unwrap());
        assert!((4..=8).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last().unwrap().1, [99; 30]);
    }

    #[test]
    fn a_log_ends_at_the_first_malformed_entry() {
        let folder = tempfile::tempdir().unwrap();
        for garbage in [[0xff; 64], [0; 64]] {
            fs::write(folder.path().join(NAME), garbage).unwrap();
            assert_eq!(all(&mut Reader::open(folder.path()).unwrap()), []);
        }
    }
}
