//! An archive, entry by entry.

use std::io::{self, Read, Write};
use std::ops::Range;

use crate::encode::{Header, NAME_BYTES, Records, pad};
use crate::pax::Timestamp;
use crate::source::BLOCK;

/// A hole shorter than this is written as zeros: its entry in the map would save little.
const MIN_HOLE: u64 = 4096;

/// Ranges that a map has at most. Go's `archive/tar` refuses a map over 1 MiB, and no range takes
/// more than 40 bytes.
const MAX_RANGES: usize = 20_000;

/// The name and the attributes of an entry.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// The path; a directory's gets a slash at its end.
    pub path: &'a [u8],
    /// The permission bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The modification time.
    pub mtime: Timestamp,
    /// The extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is. Regular files are written by [`Writer::file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A directory.
    Directory,
    /// A further name of the entry with this path.
    HardLink(&'a [u8]),
    /// A symbolic link.
    Symlink(&'a [u8]),
    /// A character device, by its major and minor number.
    CharDevice(u32, u32),
    /// A block device, by its major and minor number.
    BlockDevice(u32, u32),
    /// A fifo.
    Fifo,
}

/// Writes an archive in the PAX format. The same entries give the same bytes.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// A writer at the beginning of an archive.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes an entry without contents.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn entry(&mut self, head: &Head<'_>, body: Body<'_>) -> io::Result<()> {
        let mut path = head.path.to_vec();
        let (kind, link, device) = match body {
            Body::HardLink(target) => (b'1', target, (0, 0)),
            Body::Symlink(target) => (b'2', target, (0, 0)),
            Body::CharDevice(major, minor) => (b'3', &b""[..], (major, minor)),
            Body::BlockDevice(major, minor) => (b'4', &b""[..], (major, minor)),
            Body::Directory => {
                if !path.ends_with(b"/") {
                    path.push(b'/');
                }
                (b'5', &b""[..], (0, 0))
            }
            Body::Fifo => (b'6', &b""[..], (0, 0)),
        };
        // A further name has the attributes of the first.
        let records = match body {
            Body::HardLink(_) => Records::default(),
            _ => records(head),
        };
        let header = Header {
            link,
            device,
            ..header(head, &path, kind, 0)
        };
        self.out.write_all(&header.encode(records))
    }

    /// Writes a regular file of `size` bytes with data in `ranges`, which ascend inside the file,
    /// and holes elsewhere. `data` returns the bytes of all ranges, one after the other; where it
    /// ends too early, as a file does that was cut short meanwhile, zeros follow. Holes of 4 KiB
    /// and more are left out, as GNU tar's sparse format 1.0 does.
    ///
    /// # Errors
    ///
    /// Those of the output and of `data`.
    pub fn file(
        &mut self,
        head: &Head<'_>,
        size: u64,
        ranges: &[Range<u64>],
        mut data: impl Read,
    ) -> io::Result<()> {
        let kept = joined(ranges, size);
        let stored: u64 = kept.iter().map(|range| range.end - range.start).sum();
        let mut records = records(head);
        let body = if stored == size {
            let header = header(head, head.path, b'0', size);
            self.out.write_all(&header.encode(records))?;
            size
        } else {
            let mut map = encoded(&kept, size);
            pad(&mut map);
            records.add_sparse(head.path, size);
            let body = stored + map.len() as u64;
            let name = sparse_name(head.path);
            let mut bytes = header(head, &name, b'0', body).encode(records);
            bytes.append(&mut map);
            self.out.write_all(&bytes)?;
            body
        };
        let mut at = 0;
        let mut ranges = ranges.iter();
        let mut next = ranges.next();
        for range in &kept {
            at = at.max(range.start);
            while let Some(range) = next.filter(|next| next.end <= range.end) {
                self.zeros(range.start - at)?;
                let length = range.end - range.start;
                let copied = io::copy(&mut (&mut data).take(length), &mut self.out)?;
                self.zeros(length - copied)?;
                at = range.end;
                next = ranges.next();
            }
            self.zeros(range.end - at)?;
            at = range.end;
        }
        self.zeros(body.next_multiple_of(BLOCK as u64) - body)
    }

    /// Writes the end of the archive, and returns the output, flushed.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.zeros(2 * BLOCK as u64)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn zeros(&mut self, length: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(length), &mut self.out).map(drop)
    }
}

fn records(head: &Head<'_>) -> Records {
    let mut records = Records::default();
    for (name, value) in &head.xattrs {
        records.add_xattr(name, value);
    }
    records
}

fn header<'a>(head: &Head<'_>, path: &'a [u8], kind: u8, size: u64) -> Header<'a> {
    Header {
        path,
        link: b"",
        kind,
        mode: head.mode.into(),
        uid: head.uid,
        gid: head.gid,
        size,
        mtime: head.mtime,
        device: (0, 0),
    }
}

/// Returns the ranges of a map: few enough, with only holes between them that are worth leaving
/// out.
fn joined(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut min_hole = MIN_HOLE;
    loop {
        let mut kept: Vec<Range<u64>> = Vec::new();
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            match kept.last_mut() {
                Some(last) if range.start - last.end < min_hole => last.end = range.end,
                None if range.start < min_hole => kept.push(0..range.end),
                _ => kept.push(range.clone()),
            }
        }
        match kept.last_mut() {
            Some(last) if size - last.end < min_hole => last.end = size,
            None if size < min_hole && size > 0 => kept.push(0..size),
            _ => {}
        }
        if kept.len() <= MAX_RANGES {
            return kept;
        }
        min_hole = min_hole.saturating_mul(2);
    }
}

/// A map as text, not padded yet. As GNU tar has it: a range without bytes where a file that ends
/// with a hole ends.
fn encoded(ranges: &[Range<u64>], size: u64) -> Vec<u8> {
    let ends_with_hole = ranges.last().is_none_or(|last| last.end < size);
    let end = ends_with_hole.then_some(size..size);
    let all: Vec<_> = ranges.iter().cloned().chain(end).collect();
    let lines = all
        .iter()
        .map(|range| format!("{}\n{}\n", range.start, range.end - range.start));
    format!("{}\n{}", all.len(), lines.collect::<String>()).into_bytes()
}

/// The name of a sparse file for readers without sparse support, cut to the length of a header
/// field. GNU tar writes the same name with the number of its process.
fn sparse_name(path: &[u8]) -> Vec<u8> {
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let folder = path.strip_suffix(base).unwrap_or_default();
    let mut name = [folder, b"GNUSparseFile.0/", base].concat();
    name.truncate(NAME_BYTES);
    name
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::single_range_in_vec_init,
        reason = "files with one range of data"
    )]

    use super::*;
    use crate::limits::Limits;
    use crate::reader::{Reader, What};
    use crate::source::Source;

    fn head(path: &[u8]) -> Head<'_> {
        Head {
            path,
            mode: 0o640,
            uid: 5,
            gid: 1 << 31,
            mtime: Timestamp { secs: -1, nanos: 5 },
            xattrs: vec![(b"user.a=b".to_vec(), vec![0, 10, 255])],
        }
    }

    fn reader(bytes: &[u8]) -> Reader<&[u8]> {
        let limits = Limits {
            entries: 100,
            extended_header_bytes: 1 << 20,
            file_bytes: u64::MAX,
            sparse_ranges: 1 << 20,
        };
        Reader::new(Source::new(bytes), limits)
    }

    /// A file as a reader returns it.
    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut reader = reader(bytes);
        let entry = reader.next(|_| ()).unwrap().unwrap();
        assert_eq!(entry.path, b"a/file");
        let What::File(map) = &entry.what else {
            panic!("{entry:?}");
        };
        let mut file = vec![0; map.size as usize];
        for &(start, length) in &map.ranges {
            let range = start as usize..(start + length) as usize;
            reader.source.read_exact(&mut file[range]).unwrap();
        }
        let attributes = entry.attributes().unwrap();
        assert_eq!((attributes.uid, attributes.gid), (5, 1 << 31));
        assert_eq!(attributes.mtime, head(b"").mtime);
        assert_eq!(attributes.xattrs[&b"user.a=b"[..]], [0, 10, 255]);
        file
    }

    #[test]
    fn holes_come_back_whether_they_are_in_the_map_or_not() {
        let file: Vec<u8> = (0..40_000_u32)
            .map(|at| match at {
                100..200 | 9_000..9_100 | 12_000..20_000 => at as u8 | 1,
                _ => 0,
            })
            .collect();
        let all = [
            vec![100..200, 9_000..9_100, 12_000..20_000],
            vec![0..40_000],
        ];
        for ranges in all {
            let data: Vec<u8> = ranges
                .iter()
                .flat_map(|range| &file[range.start as usize..range.end as usize])
                .copied()
                .collect();
            let mut writer = Writer::new(Vec::new());
            writer
                .file(&head(b"a/file"), 40_000, &ranges, &data[..])
                .unwrap();
            let bytes = writer.finish().unwrap();
            assert!(bytes.len().is_multiple_of(BLOCK));
            assert_eq!(read(&bytes), file);
        }
        assert_eq!(
            joined(&[100..200, 9_000..9_100, 12_000..20_000], 40_000),
            [0..200, 9_000..20_000]
        );
        assert_eq!(encoded(&[0..512], 20_000), b"2\n0\n512\n20000\n0\n");
        assert_eq!(joined(&[], 1 << 40), []);
    }

    #[test]
    fn a_file_that_was_cut_short_is_followed_by_zeros() {
        let mut writer = Writer::new(Vec::new());
        writer
            .file(&head(b"a/file"), 10_000, &[0..10_000], &[7; 10][..])
            .unwrap();
        let file = read(&writer.finish().unwrap());
        assert_eq!((&file[..10], &file[10..]), (&[7; 10][..], &[0; 9_990][..]));
    }

    #[test]
    fn other_entries_come_back_as_they_were() {
        let long = [b'x'; 200];
        let bodies = [
            Body::Directory,
            Body::HardLink(&long),
            Body::Symlink(b"to"),
            Body::CharDevice(1, 3),
            Body::BlockDevice(259, 70_000),
            Body::Fifo,
        ];
        let mut writer = Writer::new(Vec::new());
        for body in bodies {
            writer.entry(&head(&long), body).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = reader(&bytes);
        for body in bodies {
            let entry = reader.next(|_| ()).unwrap().unwrap();
            let same = match (&entry.what, body) {
                (What::Directory, Body::Directory) => entry.path.ends_with(b"x/"),
                (What::HardLink(found), Body::HardLink(target)) => found == target,
                (What::Symlink(found), Body::Symlink(target)) => found == target,
                (&What::CharDevice { major, minor }, Body::CharDevice(a, b))
                | (&What::BlockDevice { major, minor }, Body::BlockDevice(a, b)) => {
                    (major, minor) == (a, b)
                }
                (What::Fifo, Body::Fifo) => true,
                _ => false,
            };
            assert!(same, "{entry:?}");
        }
        assert!(reader.next(|_| ()).unwrap().is_none());
    }
}
