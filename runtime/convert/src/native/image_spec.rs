//! Layers as the draft specification of EROFS images has them.
//!
//! The specification is `spec.md` of <https://github.com/erofs/erofs-image-spec> (section numbers
//! below are those of commit 640fd6a505cc); it may change before its first version. It differs from
//! what [`chunks`](super::chunks) and the media type `application/vnd.erofs.layer.v1` have:
//!
//! - the media type (2.1), and a role for layers below others (2.4);
//! - the index of the zstd frames, which has a longer header, and entries with the offset in the
//!   uncompressed image (3.4), and is announced by other annotations (2.3).
//!
//! ```text
//! frame 0 | frame 1 | … | 0x184D2A50, length | header | entry of frame 0 | entry of frame 1 | …
//! ```
//!
//! All numbers are little endian. The index is not aligned to four bytes, which the specification
//! only recommends (3.4.3): it measures the last frame up to the index, so that padding would be
//! part of that frame and of its checksum.

use super::chunks::ChunkIndex;

/// The media type of layers. In zstd, `+zstd` follows.
pub(super) const MEDIA_TYPE: &str = "application/vnd.erofs";

/// The annotation with a layer's role.
pub(super) const ROLE: &str = "org.erofs.role";
/// The role of layers that have others above them. The top layer has none (11.1).
pub(super) const OVERLAY_LOWER: &str = "overlay-lower";

/// The annotation with the index's range in the blob: `START:END` in bytes, with its frame.
pub(super) const RANGE: &str = "org.erofs.chunk-index.range";
/// The annotation with the digest of the index without its frame.
pub(super) const DIGEST: &str = "org.erofs.chunk-index.digest";
/// The annotation with the media type of the index.
pub(super) const INDEX_MEDIA_TYPE: &str = "org.erofs.chunk-index.mediaType";
/// The media type of the index.
pub(super) const INDEX_TYPE: &str = "application/vnd.erofs.chunk-index.v1";

const MAGIC: [u8; 4] = [0xcd, 0xe4, 0xec, 0x67];
const VERSION: u8 = 1;
/// `CompressionType`: each chunk is one zstd frame.
const ZSTD: u8 = 1;
/// `HashAlgo`: SHA-2.
const SHA2: u8 = 1;
const SHA256_LENGTH: u8 = 32;
/// The lengths of the header, and of an entry with a SHA-256, in bytes.
const HEADER: usize = 32;
const ENTRY: usize = 16 + SHA256_LENGTH as usize;

/// Returns the index of a blob's frames as it is stored, without the frame around it (3.4.1 and
/// 3.4.2).
pub(super) fn index(chunks: &ChunkIndex) -> Vec<u8> {
    let frames = chunks.frames();
    let hashed = frames.iter().all(|frame| frame.hash.is_some());
    let mut bytes = Vec::with_capacity(HEADER + frames.len() * ENTRY);
    bytes.extend(MAGIC);
    bytes.extend([VERSION, ZSTD]);
    // Flags.
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(chunks.size().to_le_bytes());
    // A layer has at most 2 TiB, so half a million chunks.
    bytes.extend((frames.len() as u32).to_le_bytes());
    bytes.extend(match hashed {
        true => [SHA2, SHA256_LENGTH],
        false => [0; 2],
    });
    bytes.resize(HEADER, 0);
    let starts = (0_u64..).map(|number| number * u64::from(chunks.chunk_size()));
    for (frame, start) in frames.iter().zip(starts) {
        bytes.extend(frame.offset.to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend(frame.hash.filter(|_| hashed).into_iter().flatten());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::chunks::CHUNK;

    #[test]
    fn an_index_has_the_bytes_of_the_specification() {
        let mut chunks = ChunkIndex::new(CHUNK as u64 + 5);
        chunks.push(0, b"first frame");
        chunks.push(11, b"second");
        let bytes = index(&chunks);
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        assert_eq!(
            hex(&bytes[..32]),
            "cde4ec67" // Magic
                .to_owned()
                + "01" // Version
                + "01" // CompressionType
                + "0000" // Flags
                + "0500400000000000" // UncompressedSize
                + "02000000" // NumChunks
                + "01" // HashAlgo
                + "20" // HashSize
                + "00000000000000000000" // Reserved
        );
        assert_eq!(hex(&bytes[32..48]), "00000000000000000000000000000000");
        assert_eq!(hex(&bytes[80..96]), "0b000000000000000000400000000000");
        let hash = ocipull::Digest::sha256(b"second");
        assert_eq!(hex(&bytes[96..]), hash.hex());
        // A layer without bytes has no chunks (3.4.6).
        assert_eq!(index(&ChunkIndex::new(0)).len(), 32);
    }
}
