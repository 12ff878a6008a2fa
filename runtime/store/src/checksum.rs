//! Checksums by which the store detects damaged files.
//!
//! A file is hashed in chunks of 1 MiB, and its checksum is the SHA-256 of the chunks' SHA-256
//! digests in order. Writers of images go back to earlier parts of a file, such as the superblock:
//! with chunks, only those that were not written sequentially are read again, while a digest of the
//! whole file would need to read all of it.
//!
//! If a file is stored as it was received, the digest of the whole file is known already: that
//! digest is then its checksum, and nothing is hashed twice.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The length of a chunk in bytes.
const CHUNK: u64 = 1 << 20;

/// The length and the digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// The file's length in bytes.
    pub bytes: u64,
    #[serde(flatten)]
    digest: FileDigest,
}

/// The digest of a file, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum FileDigest {
    /// The SHA-256 of the SHA-256 digests of the file's chunks of 1 MiB.
    #[serde(rename = "sha256_of_mebibytes")]
    Chunks(String),
    /// The SHA-256 of the file.
    #[serde(rename = "sha256")]
    Whole(String),
}

impl Checksum {
    /// Computes the checksum of all bytes of a reader.
    ///
    /// # Errors
    ///
    /// Those of the reader.
    pub fn of(input: impl Read) -> io::Result<Self> {
        let mut whole = Sha256::new();
        let bytes = each_chunk(input, |chunk| whole.update(Sha256::digest(chunk)))?;
        Ok(Self::of_chunks(bytes, whole))
    }

    /// Returns the checksum of a file of `bytes` bytes with a known SHA-256, in hexadecimal digits.
    pub fn of_whole(bytes: u64, sha256: &str) -> Self {
        let digest = FileDigest::Whole(sha256.to_owned());
        Self { bytes, digest }
    }

    fn of_chunks(bytes: u64, digests: Sha256) -> Self {
        let digest = FileDigest::Chunks(hex(&digests.finalize()));
        Self { bytes, digest }
    }

    /// Returns whether this is the checksum of all bytes of a reader.
    ///
    /// # Errors
    ///
    /// Those of the reader.
    pub fn is_of(&self, input: impl Read) -> io::Result<bool> {
        let FileDigest::Whole(sha256) = &self.digest else {
            return Ok(Self::of(input)? == *self);
        };
        let mut whole = Sha256::new();
        let bytes = each_chunk(input, |chunk| whole.update(chunk))?;
        Ok(bytes == self.bytes && hex(&whole.finalize()) == *sha256)
    }
}

/// Passes the chunks of `input` to `hash`, and returns the number of bytes.
fn each_chunk(mut input: impl Read, mut hash: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut bytes = 0;
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        let read = (&mut input).take(CHUNK).read_to_end(&mut chunk)?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes += read as u64;
        hash(&chunk);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computes the checksum of a file while it is written.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    /// The digests of chunks that were written from beginning to end.
    settled: Vec<Option<[u8; 32]>>,
    /// The chunk that is being written sequentially: the offset of its next byte, and its running
    /// hash.
    open: Option<(u64, Sha256)>,
}

impl Hasher {
    /// Records that `bytes` are written at offset `at` of the file.
    pub fn wrote(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = CHUNK - at % CHUNK;
            let len = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (piece, rest) = bytes.split_at(len);
            self.piece(at, piece);
            at += len as u64;
            bytes = rest;
        }
    }

    /// Records that `bytes`, which do not cross the end of a chunk, are written at `at`.
    fn piece(&mut self, at: u64, bytes: &[u8]) {
        let index = (at / CHUNK) as usize;
        let end = at + bytes.len() as u64;
        if index >= self.settled.len() {
            self.settled.resize(index + 1, None);
        }
        self.settled[index] = None;
        let in_order = matches!(&self.open, Some((next, _)) if *next == at);
        if !in_order {
            if at.is_multiple_of(CHUNK) {
                self.open = Some((at, Sha256::new()));
            } else if matches!(&self.open, Some((next, _)) if next / CHUNK == at / CHUNK) {
                // A gap was left, or earlier bytes are written again.
                self.open = None;
            }
        }
        if let Some((next, hash)) = &mut self.open
            && *next == at
        {
            hash.update(bytes);
            *next = end;
            if end.is_multiple_of(CHUNK) {
                self.settled[index] = Some(hash.finalize_reset().into());
                self.open = None;
            }
        }
    }

    /// Completes the checksum of `file`, reading chunks that were not written sequentially.
    ///
    /// # Errors
    ///
    /// Those of reading `file`.
    pub fn finish(self, file: &File) -> io::Result<Checksum> {
        let bytes = file.metadata()?.len();
        let mut whole = Sha256::new();
        let mut buffer = Vec::new();
        for index in 0..bytes.div_ceil(CHUNK) {
            let start = index * CHUNK;
            let end = bytes.min(start + CHUNK);
            let settled = self.settled.get(index as usize).copied().flatten();
            let digest = match (settled, &self.open) {
                (Some(digest), _) if end - start == CHUNK => digest,
                (_, Some((next, hash))) if *next == end && next / CHUNK == index => {
                    hash.clone().finalize().into()
                }
                _ => {
                    buffer.resize((end - start) as usize, 0);
                    file.read_exact_at(&mut buffer, start)?;
                    Sha256::digest(&buffer).into()
                }
            };
            whole.update(digest);
        }
        Ok(Checksum::of_chunks(bytes, whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    /// Writes pieces to a file through a hasher, and compares the result with the checksum of the
    /// file.
    fn agrees(pieces: &[(u64, usize)], length: Option<u64>) {
        let mut file = tempfile::tempfile().unwrap();
        let mut hasher = Hasher::default();
        for (number, &(at, len)) in pieces.iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + number) as u8).collect();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&bytes).unwrap();
            hasher.wrote(at, &bytes);
        }
        if let Some(length) = length {
            file.set_len(length).unwrap();
        }
        let written = hasher.finish(&file).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(
            written,
            Checksum::of(&file).unwrap(),
            "{pieces:?} {length:?}"
        );
    }

    #[test]
    fn checksum_while_writing_equals_that_of_the_file_for_any_order_of_writes() {
        const M: u64 = CHUNK;
        let m = CHUNK as usize;
        agrees(&[], None);
        agrees(&[(0, 10)], None);
        agrees(&[(0, m), (M, m)], None);
        agrees(&[(0, 3 * m + 5)], None);
        // A hole, then the superblock.
        agrees(&[(8192, 2 * m), (8192 + 2 * M, 100), (1024, 128)], None);
        // Overwrites parts of a completed chunk and of an open one.
        agrees(&[(0, 2 * m + 10), (M + 5, 5)], None);
        agrees(&[(0, 2 * m + 10), (2 * M + 5, 2), (2 * M + 10, 4)], None);
        // Writes the beginning of a chunk again, but not its end.
        agrees(&[(0, m), (0, 10), (M, 10)], None);
        agrees(&[(0, 100), (50, 50), (100, 10)], None);
        // Truncates and extends the file, within a chunk and beyond.
        agrees(&[(0, 2 * m)], Some(M + 100));
        agrees(&[(0, 100)], Some(50));
        agrees(&[(0, 100)], Some(3 * M));
        agrees(&[(5 * M, 100)], None);
    }

    #[test]
    fn the_digest_of_a_whole_file_is_a_checksum_as_well() {
        let mut bytes = vec![7; (3 << 20) + 5];
        let sha256 = hex(&Sha256::digest(&bytes));
        let whole = Checksum::of_whole(bytes.len() as u64, &sha256);
        for known in [whole, Checksum::of(&bytes[..]).unwrap()] {
            let record = serde_json::to_string(&known).unwrap();
            let known: Checksum = serde_json::from_str(&record).unwrap();
            assert!(known.is_of(&bytes[..]).unwrap(), "{record}");
            assert!(!known.is_of(&bytes[1..]).unwrap(), "{record}");
            bytes[2 << 20] ^= 1;
            assert!(!known.is_of(&bytes[..]).unwrap(), "{record}");
            bytes[2 << 20] ^= 1;
        }
    }

    #[test]
    fn a_changed_bit_changes_the_checksum() {
        let mut bytes = vec![0; 3 << 20];
        let before = Checksum::of(&bytes[..]).unwrap();
        bytes[2 << 20] ^= 1;
        assert_ne!(Checksum::of(&bytes[..]).unwrap(), before);
    }
}
