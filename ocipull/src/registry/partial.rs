//! Partial downloads of blobs, kept for the next attempt by this or another process.
//!
//! ```text
//! FOLDER/HOST/ALGORITHM-HEX          the blob's first bytes
//! FOLDER/HOST/ALGORITHM-HEX.known    a line for each piece of them: where it ends, and its CRC-32
//! ```
//!
//! A piece counts once its line is in the list. Nothing is synced: if a power failure leaves other
//! bytes, the CRC does not match, and the download continues from the previous piece. Only the
//! digest verifies the whole blob, as always. Files of one registry are not used for another one,
//! because a registry can send any bytes.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use flate2::Crc;
use rustix::fs::{FlockOperation, OFlags, flock};

use crate::chunk::{Chunk, Stream};
use crate::kept::{Claim, Fate, Paths};
use crate::{Digest, Error};

/// The longest line of a list of pieces.
const MAX_LINE: u64 = 64;

/// The files of the blob `digest` from `host`.
fn paths(folder: &Path, host: &str, digest: &Digest) -> Paths {
    let folder = folder.join(host);
    let name = format!("{}-{}", digest.algorithm(), digest.hex());
    Paths {
        known: folder.join(format!("{name}.known")),
        data: folder.join(name),
    }
}

/// Removes what is kept of a blob.
pub(super) fn forget(folder: &Path, host: &str, digest: &Digest) {
    paths(folder, host, digest).remove();
}

/// What is kept of a blob, for this download alone.
struct Partial {
    paths: Paths,
    data: File,
    known: File,
    /// The bytes in listed pieces, the bytes of the piece that is not listed yet, and its CRC.
    listed: u64,
    pending: u64,
    crc: Crc,
}

/// A listed piece.
struct Piece {
    end: u64,
    crc: u32,
    /// Where its line ends in the list.
    line_end: u64,
}

impl Partial {
    /// Opens or makes the files; `None` where another download has them.
    fn open(paths: Paths) -> io::Result<Option<Self>> {
        if let Some(folder) = paths.data.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let open = |path: &Path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits() as i32)
                .open(path)
        };
        let Some(data) = Self::locked(open(&paths.data)?, &paths.data)? else {
            return Ok(None);
        };
        let known = open(&paths.known)?;
        Ok(Some(Self {
            paths,
            data,
            known,
            listed: 0,
            pending: 0,
            crc: Crc::new(),
        }))
    }

    /// Locks the file that `path` led to when it was opened; `None` where another download has it.
    fn locked(data: File, path: &Path) -> io::Result<Option<File>> {
        if flock(&data, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // The previous owner may have removed the file meanwhile, or given it another name.
        let inode = |meta: Metadata| (meta.dev(), meta.ino());
        let current = fs::symlink_metadata(path).map(inode).ok();
        Ok((current == Some(inode(data.metadata()?))).then_some(data))
    }

    /// The pieces of the list, of at most `piece` bytes each, up to the first invalid line.
    fn pieces(&self, size: u64, piece: u64) -> io::Result<VecDeque<Piece>> {
        let mut list = BufReader::new(&self.known);
        list.seek(SeekFrom::Start(0))?;
        pieces(list, size, piece)
    }

    /// Reads the next piece, if its bytes match the list.
    fn read(&mut self, piece: &Piece) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        self.data.seek(SeekFrom::Start(self.listed))?;
        (&self.data)
            .take(piece.end - self.listed)
            .read_to_end(&mut bytes)?;
        let mut crc = Crc::new();
        crc.update(&bytes);
        let right = bytes.len() as u64 == piece.end - self.listed && crc.sum() == piece.crc;
        Ok(right.then_some(bytes))
    }

    /// Truncates the files after the pieces that were read, whose lines end at `line_end`.
    fn truncate(&mut self, line_end: u64) -> io::Result<()> {
        self.known.set_len(line_end)?;
        self.known.seek(SeekFrom::Start(line_end))?;
        self.data.set_len(self.listed)?;
        self.data.seek(SeekFrom::Start(self.listed))?;
        Ok(())
    }

    /// Adds bytes, in pieces of `piece` bytes.
    fn append(&mut self, mut bytes: &[u8], piece: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = usize::try_from(piece - self.pending).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.data.write_all(now)?;
            self.crc.update(now);
            self.pending += now.len() as u64;
            if self.pending >= piece {
                self.list()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Adds a line for the piece that is not listed yet.
    fn list(&mut self) -> io::Result<()> {
        if self.pending > 0 {
            self.listed += self.pending;
            let line = format!("{} {:08x}\n", self.listed, self.crc.sum());
            self.known.write_all(line.as_bytes())?;
            (self.pending, self.crc) = (0, Crc::new());
        }
        Ok(())
    }
}

/// The pieces of `list`, of at most `piece` bytes each and `size` bytes together, up to the first
/// invalid line.
fn pieces(mut list: impl BufRead, size: u64, piece: u64) -> io::Result<VecDeque<Piece>> {
    let mut pieces = VecDeque::new();
    let (mut end, mut line_end) = (0, 0);
    loop {
        let mut line = Vec::new();
        let bytes = (&mut list).take(MAX_LINE).read_until(b'\n', &mut line)?;
        let Some((next, crc)) = parse(&line) else {
            return Ok(pieces);
        };
        if next <= end || next - end > piece || next > size {
            return Ok(pieces);
        }
        end = next;
        line_end += bytes as u64;
        pieces.push_back(Piece { end, crc, line_end });
    }
}

#[cfg(fuzzing)]
pub(super) fn fuzz(list: &[u8]) {
    let pieces = pieces(list, 1 << 30, 1 << 20).unwrap_or_default();
    let ends: Vec<_> = pieces.iter().map(|piece| piece.end).collect();
    assert!(ends.is_sorted() && ends.last().is_none_or(|last| *last <= 1 << 30));
    assert!(
        pieces
            .iter()
            .all(|piece| piece.line_end <= list.len() as u64)
    );
}

fn parse(line: &[u8]) -> Option<(u64, u32)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (end, crc) = line.split_once(' ')?;
    Some((end.parse().ok()?, u32::from_str_radix(crc, 16).ok()?))
}

/// The bytes of a blob: those that are kept, then those from `fetch`, which are kept until the end.
pub(super) struct KeptReader<R> {
    partial: Option<Partial>,
    pieces: VecDeque<Piece>,
    line_end: u64,
    /// The most bytes of a piece.
    piece: u64,
    /// A piece, and how much of it was read.
    current: Vec<u8>,
    position: usize,
    /// The download of the rest, once the pieces are read.
    rest: Option<R>,
    fetch: Box<dyn FnMut(u64) -> R + Send>,
    fate: Fate,
}

impl<R: Read> KeptReader<R> {
    /// Of the blob `digest` from `host`, which should have `size` bytes, kept in `folder` in pieces
    /// of `piece` bytes.
    pub(super) fn new(
        (folder, host): (&Path, &str),
        digest: &Digest,
        (size, piece): (u64, u64),
        fetch: impl FnMut(u64) -> R + Send + 'static,
    ) -> Self {
        let opened = Partial::open(paths(folder, host, digest)).and_then(|partial| {
            let pieces = partial.as_ref().map(|partial| partial.pieces(size, piece));
            Ok((partial, pieces.transpose()?.unwrap_or_default()))
        });
        let (partial, pieces) = opened.unwrap_or_else(|error| {
            tracing::warn!(%digest, %error, "what comes of a blob is not kept");
            (None, VecDeque::new())
        });
        if let Some(last) = pieces.back() {
            tracing::debug!(%digest, bytes = last.end, "going on with what an earlier download kept");
        }
        Self {
            partial,
            pieces,
            line_end: 0,
            piece,
            current: Vec::new(),
            position: 0,
            rest: None,
            fetch: Box::new(fetch),
            fate: Fate::default(),
        }
    }

    /// The right to the file, where there is one.
    pub(super) fn claim(&self) -> Option<Claim> {
        let partial = self.partial.as_ref()?;
        Some(Claim {
            file: partial.data.try_clone().ok()?,
            paths: partial.paths.clone(),
            fate: self.fate.clone(),
        })
    }

    /// The next piece that is kept; `false` after the last good one.
    fn next_piece(&mut self) -> bool {
        let (Some(piece), Some(partial)) = (self.pieces.pop_front(), &mut self.partial) else {
            return false;
        };
        match partial.read(&piece) {
            Ok(Some(bytes)) => {
                (self.current, self.position) = (bytes, 0);
                (partial.listed, self.line_end) = (piece.end, piece.line_end);
                true
            }
            _ => {
                self.pieces.clear();
                false
            }
        }
    }

    /// Starts to fetch the bytes after the pieces.
    fn go_on(&mut self) -> Result<R, Error> {
        self.current = Vec::new();
        let offset = self.partial.as_ref().map_or(0, |partial| partial.listed);
        let line_end = self.line_end;
        self.keep(|partial| partial.truncate(line_end))?;
        Ok((self.fetch)(offset))
    }

    /// Changes the kept files. If that fails, nothing is kept any more, since it must not fail the
    /// download, unless the file is all that the reader of the blob wants.
    fn keep(&mut self, change: impl FnOnce(&mut Partial) -> io::Result<()>) -> Result<(), Error> {
        let Some(partial) = &mut self.partial else {
            return Ok(());
        };
        let Err(source) = change(partial) else {
            return Ok(());
        };
        let path = partial.paths.data.clone();
        partial.paths.remove();
        self.partial = None;
        if self.fate.lose() {
            return Err(Error::Io { path, source });
        }
        tracing::warn!(path = %path.display(), error = %source, "what comes of a blob is no longer kept");
        Ok(())
    }

    /// All bytes were received.
    fn complete(&mut self) -> Result<(), Error> {
        // With its last piece the list is complete, should the process be killed before the reader
        // of the blob has given the file another name.
        self.keep(Partial::list)?;
        if let Some(partial) = self.partial.take()
            && !self.fate.complete()
        {
            // The reader of the blob can verify it now, so nothing needs to be kept.
            partial.paths.remove();
        }
        Ok(())
    }
}

impl<R: Read> Read for KeptReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.rest.is_none() {
            if self.position >= self.current.len() && !self.next_piece() {
                self.rest = Some(self.go_on()?);
            } else {
                let mut left = self.current.get(self.position..).unwrap_or_default();
                let bytes = left.read(buffer)?;
                self.position += bytes;
                return Ok(bytes);
            }
        }
        let Some(rest) = &mut self.rest else {
            return Ok(0);
        };
        match rest.read(buffer)? {
            0 => {
                self.complete()?;
                Ok(0)
            }
            bytes => {
                let piece = self.piece;
                let new = buffer.get(..bytes).unwrap_or_default();
                self.keep(|partial| partial.append(new, piece))?;
                Ok(bytes)
            }
        }
    }
}

impl<R: Stream> Stream for KeptReader<R> {
    fn chunk(&mut self) -> Option<io::Result<Chunk>> {
        let chunk = self.rest.as_mut()?.chunk()?;
        Some(chunk.and_then(|chunk| {
            let piece = self.piece;
            self.keep(|partial| partial.append(&chunk, piece))?;
            Ok(chunk)
        }))
    }
}

impl<R> Drop for KeptReader<R> {
    fn drop(&mut self) {
        if let Some(partial) = &mut self.partial
            && self.rest.is_some()
            && partial.list().is_err()
        {
            partial.paths.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1000;

    fn blob() -> Vec<u8> {
        (0..10_500_u32).map(|i| ((i * i) >> 7) as u8).collect()
    }

    /// Reads at most `most` bytes of the blob; the bytes, and where fetching began.
    fn read(folder: &Path, digest: &Digest, most: u64) -> (Vec<u8>, Option<u64>) {
        let began = std::sync::Arc::new(std::sync::Mutex::new(None));
        let seen = began.clone();
        let size = blob().len() as u64;
        let mut reader =
            KeptReader::new((folder, "host:1"), digest, (size, PIECE), move |offset| {
                *seen.lock().unwrap() = Some(offset);
                io::Cursor::new(blob()[offset as usize..].to_vec())
            });
        let mut bytes = Vec::new();
        (&mut reader).take(most).read_to_end(&mut bytes).unwrap();
        drop(reader);
        let began = *began.lock().unwrap();
        (bytes, began)
    }

    fn paths(folder: &Path, digest: &Digest) -> Paths {
        super::paths(folder, "host:1", digest)
    }

    #[test]
    fn a_download_goes_on_with_what_was_kept_and_leaves_nothing_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::sha256(&blob());
        assert_eq!(read(folder.path(), &digest, 4321).1, Some(0));
        let (bytes, began) = read(folder.path(), &digest, u64::MAX);
        assert!(bytes == blob());
        assert_eq!(began, Some(4321));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_claimed_file_that_is_complete_needs_nothing_of_the_registry() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::sha256(&blob());
        let paths = paths(folder.path(), &digest);
        let size = blob().len() as u64;
        let place = (folder.path(), "host:1");
        let fetch = |offset| io::Cursor::new(blob()[offset as usize..].to_vec());
        let mut reader = KeptReader::new(place, &digest, (size, PIECE), fetch);
        let claimed = reader.claim().unwrap().take().unwrap();
        io::copy(&mut reader, &mut io::sink()).unwrap();
        drop(reader);
        // As if the process was killed before it gave the file another name.
        let list = fs::read(&paths.known).unwrap();
        drop(claimed);
        assert!(!paths.data.exists() && !paths.known.exists());
        fs::create_dir_all(paths.data.parent().unwrap()).unwrap();
        fs::write(&paths.data, blob()).unwrap();
        fs::write(&paths.known, list).unwrap();
        let (bytes, began) = read(folder.path(), &digest, u64::MAX);
        assert!(bytes == blob());
        assert_eq!(began, Some(size));
    }

    #[test]
    fn a_file_that_has_another_name_by_now_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::sha256(&blob());
        let paths = paths(folder.path(), &digest);
        read(folder.path(), &digest, 4321);
        let other = folder.path().join("layer");
        let first = Partial::open(paths.clone()).unwrap().unwrap();
        // Opened before the file is renamed, and locked after that.
        let late = File::options().write(true).open(&paths.data).unwrap();
        fs::rename(&paths.data, &other).unwrap();
        drop(first);
        assert!(Partial::locked(late, &paths.data).unwrap().is_none());
        assert!(fs::read(&other).unwrap() == blob()[..4321]);
    }

    #[test]
    fn bytes_that_changed_on_disk_are_fetched_again() {
        let digest = Digest::sha256(&blob());
        for (at, expected) in [(0, 0), (2500, 2000), (4300, 4000)] {
            let folder = tempfile::tempdir().unwrap();
            read(folder.path(), &digest, 4321);
            let paths = paths(folder.path(), &digest);
            let mut data = fs::read(&paths.data).unwrap();
            data[at] ^= 1;
            fs::write(&paths.data, data).unwrap();
            let (bytes, began) = read(folder.path(), &digest, u64::MAX);
            assert!(bytes == blob(), "{at}");
            assert_eq!(began, Some(expected));
        }
    }

    #[test]
    fn damaged_list_of_kept_pieces_counts_up_to_the_damage() {
        let digest = Digest::sha256(&blob());
        let lists: [&[u8]; 7] = [
            b"",
            b"\xff\n",
            b"1000\n",
            b"99999999999999999999 00000000\n",
            b"10500 00000000\n",
            b"0 00000000\n",
            b"1000 ",
        ];
        for list in lists {
            let folder = tempfile::tempdir().unwrap();
            read(folder.path(), &digest, 4321);
            fs::write(paths(folder.path(), &digest).known, list).unwrap();
            let (bytes, began) = read(folder.path(), &digest, u64::MAX);
            assert!(bytes == blob());
            assert_eq!(began, Some(0), "{list:?}");
        }
    }

    #[test]
    fn a_blob_that_another_download_keeps_is_fetched_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::sha256(&blob());
        let other = Partial::open(paths(folder.path(), &digest)).unwrap();
        assert!(other.is_some());
        assert!(read(folder.path(), &digest, u64::MAX).0 == blob());
        assert!(paths(folder.path(), &digest).data.exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_does_not_stop_a_download() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let digest = Digest::sha256(&blob());
        assert!(read(file.path(), &digest, u64::MAX).0 == blob());
    }
}
