//! The index of the zstd frames of a layer, by which a part of it can be read without the rest.
//!
//! Version 1 of the draft specification of EROFS images (containerd pull requests 12703 and 12764).
//! The uncompressed image is cut into chunks of one size, each of which is one zstd frame. Behind
//! the frames stands a skippable frame that holds the index, so that any zstd decoder reads the
//! blob as it is:
//!
//! ```text
//! frame 0 | frame 1 | … | 0x184D2A50, length | header | offset, hash of frame 0 | offset, hash of frame 1 | …
//! ```
//!
//! All numbers are little endian. Another version is another format: it is refused.

use sha2::{Digest as _, Sha256};

/// The magic number of a skippable zstd frame (RFC 8878).
const SKIPPABLE: u32 = 0x184D_2A50;
/// The magic number of the index.
const MAGIC: u32 = 0x67EC_E4CD;
/// The version that is written and read.
const VERSION: u32 = 1;
/// The header's length in bytes.
const HEADER: usize = 24;
/// The length of SHA-256 in bytes.
const HASH: usize = 32;
/// The length of an entry with a hash in bytes.
const ENTRY: usize = 8 + HASH;
/// The number of SHA-2 with the length in the header; 0 means no hash.
const SHA2: u8 = 1;

/// The size of a chunk, in bytes.
pub const CHUNK: usize = 4 << 20;

/// The annotation with the index's range in the blob: `START:END` in bytes.
pub const RANGE: &str = "org.erofs.index.range";
/// The annotation with the digest of the index without its frame.
pub const DIGEST: &str = "org.erofs.index.digest";
/// The annotation with the media type of the index.
pub const MEDIA_TYPE: &str = "org.erofs.index.mediaType";
/// The media type of the index.
pub const INDEX_TYPE: &str = "application/vnd.erofs.index.v1";

/// Why an index is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// It is truncated, or bytes follow its end.
    #[error("its length is wrong")]
    Length,
    /// It is not an index.
    #[error("its magic number is wrong")]
    Magic,
    /// Its version is not supported.
    #[error("version {0} is not supported")]
    Version(u32),
    /// Its hash algorithm is not supported.
    #[error("hash algorithm {0} is not supported")]
    Hash(u8),
    /// The size of chunks is zero.
    #[error("its chunks have no size")]
    ChunkSize,
    /// The frames are not contiguous.
    #[error("its frames are not in order")]
    Order,
}

/// The index of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkIndex {
    size: u64,
    chunk_size: u32,
    frames: Vec<Frame>,
}

/// A frame of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// Its offset in the blob, in bytes.
    pub offset: u64,
    /// The SHA-256 of its bytes; `None` if the index has no hashes.
    pub hash: Option<[u8; HASH]>,
}

impl ChunkIndex {
    /// Returns an index without frames, for an image of `size` bytes in chunks of [`CHUNK`] bytes.
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            chunk_size: CHUNK as u32,
            frames: Vec::new(),
        }
    }

    /// Adds the next frame.
    pub(super) fn push(&mut self, offset: u64, frame: &[u8]) {
        self.frames.push(Frame {
            offset,
            hash: Some(Sha256::digest(frame).into()),
        });
    }

    /// Returns the uncompressed size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the size of a chunk in bytes. The last chunk may be shorter.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Returns the frames, one for each chunk.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Returns the index as it is stored, without the frame around it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let hashed = self.frames.iter().all(|frame| frame.hash.is_some());
        let mut bytes = Vec::with_capacity(HEADER + self.frames.len() * ENTRY);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.chunk_size.to_le_bytes());
        bytes.extend(match hashed {
            true => [SHA2, HASH as u8, 0, 0],
            false => [0; 4],
        });
        for frame in &self.frames {
            bytes.extend(frame.offset.to_le_bytes());
            bytes.extend(frame.hash.filter(|_| hashed).into_iter().flatten());
        }
        bytes
    }

    /// Parses an index without the frame around it, of a blob whose frames end at offset `end`.
    ///
    /// # Errors
    ///
    /// A [`ChunkError`] for any bytes that are not an index of such a blob.
    pub fn parse(bytes: &[u8], end: u64) -> Result<Self, ChunkError> {
        let (header, entries) = bytes.split_at_checked(HEADER).ok_or(ChunkError::Length)?;
        let u32_at = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(number)
        };
        if u32_at(0) != MAGIC {
            return Err(ChunkError::Magic);
        }
        if u32_at(4) != VERSION {
            return Err(ChunkError::Version(u32_at(4)));
        }
        let size = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
        let chunk_size = u32_at(16);
        let hash = match (header[20], usize::from(header[21])) {
            (0, _) => 0,
            (SHA2, HASH) => HASH,
            (other, _) => return Err(ChunkError::Hash(other)),
        };
        if chunk_size == 0 {
            return Err(ChunkError::ChunkSize);
        }
        let count = size.div_ceil(u64::from(chunk_size));
        let entry = 8 + hash;
        // The number of entries is checked against the length before anything is allocated.
        if count != (entries.len() / entry) as u64 || !entries.len().is_multiple_of(entry) {
            return Err(ChunkError::Length);
        }
        let mut frames: Vec<Frame> = Vec::with_capacity(entries.len() / entry);
        for entry in entries.chunks_exact(entry) {
            let (offset, hash) = entry.split_at(8);
            let mut number = [0; 8];
            number.copy_from_slice(offset);
            let offset = u64::from_le_bytes(number);
            let after = frames.last().is_none_or(|last| last.offset < offset);
            if !after || offset >= end || (frames.is_empty() && offset != 0) {
                return Err(ChunkError::Order);
            }
            let hash = hash.try_into().ok();
            frames.push(Frame { offset, hash });
        }
        Ok(Self {
            size,
            chunk_size,
            frames,
        })
    }
}

/// Returns a skippable zstd frame around `payload`.
pub(super) fn skippable(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(payload.len() + 8);
    frame.extend(SKIPPABLE.to_le_bytes());
    frame.extend(length.to_le_bytes());
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_the_bytes_of_the_draft_and_parses_back() {
        let mut index = ChunkIndex::new(CHUNK as u64 + 1);
        index.push(0, b"first");
        index.push(5, b"second");
        let bytes = index.to_bytes();
        assert_eq!(bytes.len(), 24 + 2 * 40);
        assert_eq!(bytes[..4], [0xcd, 0xe4, 0xec, 0x67]);
        assert_eq!(
            bytes[4..20],
            [1, 0, 0, 0, 1, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x40, 0]
        );
        assert_eq!(bytes[20..24], [1, 32, 0, 0]);
        assert_eq!(ChunkIndex::parse(&bytes, 11), Ok(index));
        assert_eq!(skippable(b"x")[..8], [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0]);
    }

    #[test]
    fn bytes_that_are_not_an_index_of_the_blob_are_rejected() {
        let mut index = ChunkIndex::new(CHUNK as u64 + 1);
        index.push(0, b"first");
        index.push(5, b"second");
        let good = index.to_bytes();
        let bad = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            ChunkIndex::parse(&bytes, 11).unwrap_err()
        };
        assert_eq!(bad(0, 0), ChunkError::Magic);
        assert_eq!(bad(4, 2), ChunkError::Version(2));
        assert_eq!(bad(18, 0), ChunkError::ChunkSize);
        assert_eq!(bad(20, 9), ChunkError::Hash(9));
        assert_eq!(bad(21, 20), ChunkError::Hash(1));
        assert_eq!(bad(15, 0xff), ChunkError::Length);
        assert_eq!(bad(24, 1), ChunkError::Order);
        assert_eq!(bad(64, 0), ChunkError::Order);
        assert_eq!(bad(64, 11), ChunkError::Order);
        for length in 0..good.len() {
            assert_eq!(
                ChunkIndex::parse(&good[..length], 11),
                Err(ChunkError::Length)
            );
        }
    }
}
