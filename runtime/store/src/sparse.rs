//! Sparse files: copies that keep holes, and digests that do not depend on holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use rustix::fs::{SeekFrom as SparseSeek, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::Meter;

/// The number of bytes that a digest hashes together.
const PIECE: usize = 64 << 10;

/// The number of bytes copied at a time.
const STEP: u64 = 8 << 20;

/// How a file was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Copied {
    /// Both files share their blocks until one of them is written to.
    Shared,
    /// This many bytes of data were copied.
    Bytes(u64),
}

/// Makes the empty file `to` equal to `from`. The files share their blocks if the file system
/// supports it; else the data is copied and holes stay holes. `meter` counts the data that is
/// copied.
///
/// # Errors
///
/// Those of reading and writing.
pub fn copy(from: &File, to: &File, meter: &Meter) -> io::Result<Copied> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(Copied::Shared);
    }
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut copied = 0;
    for data in data(from, size) {
        let data = data?;
        let (mut input, mut output) = (from, to);
        input.seek(SeekFrom::Start(data.start))?;
        output.seek(SeekFrom::Start(data.start))?;
        loop {
            let at = input.stream_position()?;
            let left = data.end.saturating_sub(at).min(STEP);
            let count = io::copy(&mut input.take(left), &mut output)?;
            if count == 0 {
                break;
            }
            copied += count;
            meter.add(count);
        }
    }
    Ok(Copied::Bytes(copied))
}

/// Returns the digest of a sparse file, in hexadecimal digits: the SHA-256 over each aligned piece
/// of 64 KiB that is not all zeros, preceded by its offset (64 bits, little endian). `meter` counts
/// the bytes that are read.
///
/// # Errors
///
/// Those of reading.
pub fn digest(file: &File, meter: &Meter) -> io::Result<String> {
    let size = file.metadata()?.len();
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    // One range of data may end, and the next begin, in the same piece.
    let mut next = 0;
    for data in data(file, size) {
        let data = data?;
        let mut at = (data.start / PIECE as u64 * PIECE as u64).max(next);
        let mut input = file;
        input.seek(SeekFrom::Start(at))?;
        while at < data.end {
            let length = usize::try_from(size - at).map_or(PIECE, |left| left.min(PIECE));
            input.read_exact(&mut piece[..length])?;
            meter.add(length as u64);
            if piece[..length].iter().any(|&byte| byte != 0) {
                hasher.update(at.to_le_bytes());
                hasher.update(&piece[..length]);
            }
            at += length as u64;
        }
        next = at;
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns the ranges of a file of `size` bytes that may hold data other than zeros, in ascending
/// order.
pub fn data(file: &File, size: u64) -> impl Iterator<Item = io::Result<Range<u64>>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= size {
            return None;
        }
        let found = match seek(file, SparseSeek::Data(at)) {
            Ok(start) => seek(file, SparseSeek::Hole(start)).map(|end| start..end),
            // There is no data after this offset.
            Err(Errno::NXIO) => Ok(size..size),
            // The file system does not report holes.
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(at..size),
            Err(error) => Err(error),
        };
        let found = found.map_err(io::Error::from).map(|range| {
            // The file may have grown meanwhile.
            range.start.min(size)..range.end.min(size)
        });
        at = found.as_ref().map_or(size, |range| range.end);
        match found {
            Ok(range) if range.is_empty() => None,
            found => Some(found),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    /// A file of 8 MiB with data in some places.
    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        for (at, text) in [(0, "first"), (100_000, "second"), (5 << 20, "third")] {
            file.write_all_at(text.as_bytes(), at).unwrap();
        }
        file
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_copy_is_equal_and_takes_no_more_space() {
        let (from, to) = (sparse(), tempfile::tempfile().unwrap());
        let copied = copy(&from, &to, &Meter::default()).unwrap();
        assert_eq!(bytes(&from), bytes(&to));
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks());
        assert!(copied == Copied::Shared || matches!(copied, Copied::Bytes(n) if n < 1 << 20));

        let empty = tempfile::tempfile().unwrap();
        empty.set_len(1 << 30).unwrap();
        let to = tempfile::tempfile().unwrap();
        copy(&empty, &to, &Meter::default()).unwrap();
        let meta = to.metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks()), (1 << 30, 0));
    }

    #[test]
    fn a_digest_does_not_depend_on_holes() {
        let file = sparse();
        let whole = tempfile::tempfile().unwrap();
        whole.write_all_at(&bytes(&file), 0).unwrap();
        assert_eq!(
            digest(&file, &Meter::default()).unwrap(),
            digest(&whole, &Meter::default()).unwrap()
        );
        // The digest depends on each byte, and on its offset.
        file.write_all_at(b"x", (8 << 20) - 1).unwrap();
        let changed = digest(&file, &Meter::default()).unwrap();
        assert_ne!(changed, digest(&whole, &Meter::default()).unwrap());
        let moved = tempfile::tempfile().unwrap();
        moved.set_len(8 << 20).unwrap();
        moved.write_all_at(b"x", 0).unwrap();
        let other = tempfile::tempfile().unwrap();
        other.set_len(8 << 20).unwrap();
        other.write_all_at(b"x", 1 << 20).unwrap();
        assert_ne!(
            digest(&moved, &Meter::default()).unwrap(),
            digest(&other, &Meter::default()).unwrap()
        );
    }
}
