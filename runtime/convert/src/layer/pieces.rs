//! Contents that are stored in pieces elsewhere: how another image addresses them, and how they are
//! read.

use std::io::{self, Read, Seek, SeekFrom, Write};

use erofs_reader::{Extent, Source};
use erofs_writer::{BlockSize, Builder, Chunk, ChunkSize, DeviceId, FileData};
use fsmerge::Segment;

use super::contents::Segments;

/// A range of a file. The pieces of a file are contiguous, from its first byte to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The offset in the file, in bytes.
    pub(crate) logical: u64,
    /// The length in bytes.
    pub(crate) length: u64,
    /// The offset of its bytes in the underlying storage, in bytes; `None` for a hole.
    pub(crate) start: Option<u64>,
}

/// Returns the data and holes of a file in an image, as pieces of the file's own contents.
pub(crate) fn of_file(extents: &[Extent]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for extent in extents.iter().filter(|extent| extent.length > 0) {
        let hole = extent.source == Source::Hole;
        match pieces.last_mut() {
            Some(last) if last.start.is_none() == hole => last.length += extent.length,
            _ => pieces.push(Piece {
                logical: extent.logical,
                length: extent.length,
                start: (!hole).then_some(extent.logical),
            }),
        }
    }
    pieces
}

/// Returns how `image` addresses contents of `size` bytes in `pieces` of `device`; `None` if it
/// cannot, because a piece does not begin at a block.
pub(crate) fn address<W: Write + Seek>(
    image: &mut Builder<W>,
    device: DeviceId,
    size: u64,
    pieces: &[Piece],
    block_size: BlockSize,
) -> Result<Option<FileData>, erofs_writer::Error> {
    let block = u64::from(block_size.bytes());
    let aligned = |piece: &Piece| piece.start.unwrap_or(0).is_multiple_of(block);
    if !pieces.iter().all(aligned) {
        return Ok(None);
    }
    if let [
        Piece {
            logical: 0,
            length,
            start: Some(start),
        },
    ] = *pieces
        && length == size
    {
        return Ok(Some(FileData::on_device(device, start / block, size)));
    }
    // The largest chunks such that all pieces begin at a chunk.
    let Some(chunk_size) = chunk_size(size, pieces, block_size) else {
        return Ok(None);
    };
    let chunk_blocks = 1_u64 << chunk_size.block_bits();
    let chunks = pieces.iter().flat_map(|piece| {
        let start = piece.start.map(|start| start / block);
        (0..piece.length.div_ceil(chunk_blocks * block)).map(move |i| match start {
            Some(start) => Chunk::OnDevice {
                device,
                block: start + i * chunk_blocks,
            },
            None => Chunk::Hole,
        })
    });
    image.chunks_on_devices(chunk_size, size, chunks).map(Some)
}

fn chunk_size(size: u64, pieces: &[Piece], block_size: BlockSize) -> Option<ChunkSize> {
    let block = u64::from(block_size.bytes());
    let borders = pieces.iter().fold(0, |all, piece| all | piece.logical);
    if !borders.is_multiple_of(block) {
        return None;
    }
    if borders == 0 {
        return Some(ChunkSize::for_length(size, block_size));
    }
    let bits = (borders / block).trailing_zeros().min(31);
    ChunkSize::from_block_bits(bits as u8).ok()
}

/// Contents that are read piece by piece from their storage.
pub(crate) struct InPieces<'a, R> {
    from: R,
    size: u64,
    pieces: &'a [Piece],
    /// Unread bytes of the current piece, and its offset while none of them has been read.
    left: u64,
    seek: Option<u64>,
    /// The error of a read, kept because the caller cannot distinguish it from its own errors.
    pub(crate) failure: Option<io::Error>,
}

impl<'a, R: Read + Seek> InPieces<'a, R> {
    /// Returns contents of `size` bytes in `pieces` of `from`.
    pub(crate) fn new(from: R, size: u64, pieces: &'a [Piece]) -> Self {
        Self {
            from,
            size,
            pieces,
            left: 0,
            seek: None,
            failure: None,
        }
    }

    fn read_piece(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            if self.next_segment().is_none() {
                return Ok(0);
            }
        }
        if let Some(start) = self.seek.take() {
            self.from.seek(SeekFrom::Start(start))?;
        }
        let n = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = self.from.read(&mut buffer[..n])?;
        self.left -= n as u64;
        Ok(n)
    }
}

impl<R: Read + Seek> Read for InPieces<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_piece(buffer).map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            kind.into()
        })
    }
}

impl<R: Read + Seek> Segments for InPieces<'_, R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_dense(&self) -> bool {
        matches!(self.pieces, [piece] if piece.start.is_some() && piece.length == self.size)
    }

    fn next_segment(&mut self) -> Option<Segment> {
        let (piece, rest) = self.pieces.split_first()?;
        self.pieces = rest;
        match piece.start {
            None => Some(Segment::Hole(piece.length)),
            Some(start) => {
                (self.left, self.seek) = (piece.length, Some(start));
                Some(Segment::Data(piece.length))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use erofs_writer::{DeviceSlot, Options};

    use super::*;

    fn piece(logical: u64, length: u64, start: Option<u64>) -> Piece {
        Piece {
            logical,
            length,
            start,
        }
    }

    #[test]
    fn pieces_are_read_at_their_offsets_and_holes_are_reported() {
        let pieces = [
            piece(0, 2, Some(3)),
            piece(2, 10, None),
            piece(12, 1, Some(0)),
        ];
        let mut contents = InPieces::new(Cursor::new(b"abcdef"), 13, &pieces);
        assert!(!contents.is_dense());
        let mut seen = Vec::new();
        while let Some(segment) = contents.next_segment() {
            match segment {
                Segment::Hole(len) => seen.push(format!("hole of {len}")),
                Segment::Data(len) => {
                    let mut bytes = vec![0; len as usize];
                    contents.read_exact(&mut bytes).unwrap();
                    seen.push(String::from_utf8(bytes).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, ["de", "hole of 10", "a"]);
    }

    #[test]
    fn only_pieces_that_begin_at_a_block_can_be_addressed() {
        let mut image = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
        let device = DeviceSlot::new([0; 64], 1000);
        let device = image.add_device(device).unwrap();
        let mut can = |size, pieces: &[Piece]| {
            address(&mut image, device, size, pieces, BlockSize::B512)
                .unwrap()
                .is_some()
        };
        assert!(can(700, &[piece(0, 700, Some(1024))]));
        assert!(!can(700, &[piece(0, 700, Some(100))]));
        let hole = piece(512, 1024, None);
        assert!(can(
            1600,
            &[piece(0, 512, Some(512)), hole, piece(1536, 64, Some(1024))]
        ));
        assert!(!can(
            1600,
            &[piece(0, 500, Some(512)), piece(500, 1100, None)]
        ));
        assert!(can(5000, &[piece(0, 5000, None)]));
    }
}
