//! Block maps of inodes: from an offset in a file to the extent that holds it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::areas::Areas;
use crate::compressed::CompressedMapper;
use crate::corruption::Detail;
use crate::error::Error;
use crate::extent::{Extent, Source};
use crate::format::{self, ChunkIndex};
use crate::inode::{Inode, Layout};
use crate::num::{align_up, narrow, wide};

/// Finds extents of one inode. Caches the part of its block map that was read last.
#[derive(Debug)]
pub(crate) struct Mapper {
    inode: Inode,
    map: Map,
}

#[derive(Debug)]
enum Map {
    Flat,
    Chunks(ChunkTable),
    Compressed(Box<CompressedMapper>),
}

impl Mapper {
    pub(crate) fn new<A: Areas>(image: &A, inode: &Inode) -> Result<Self, Error> {
        let map = match inode.layout {
            // An empty inode needs no map.
            _ if inode.size == 0 => Map::Flat,
            Layout::Plain | Layout::Inline => Map::Flat,
            Layout::Chunks => Map::Chunks(ChunkTable::new(image, inode)?),
            Layout::CompressedFull | Layout::CompressedCompact => {
                Map::Compressed(Box::new(CompressedMapper::new(image, inode)?))
            }
        };
        Ok(Self { inode: *inode, map })
    }

    /// The extent that byte `offset` is in, which must be less than the inode's size. It may begin
    /// before `offset`; the one after it may continue it.
    pub(crate) fn at<A: Areas>(&mut self, image: &A, offset: u64) -> Result<Extent, Error> {
        match &mut self.map {
            Map::Flat => flat_extent(image, &self.inode, offset),
            Map::Chunks(chunks) => chunks.extent_at(image, &self.inode, offset),
            Map::Compressed(mapper) => mapper.at(image, &self.inode, offset),
        }
    }

    /// Where the block map after the inode ends, in bytes of its area: at `start` where there is
    /// none.
    pub(crate) fn end(&self, start: u64) -> u64 {
        match &self.map {
            Map::Flat => start,
            Map::Chunks(table) => table
                .start
                .saturating_add(table.chunks.saturating_mul(table.unit)),
            Map::Compressed(mapper) => mapper.end(&self.inode),
        }
    }
}

/// `erofs_map_blocks` of the kernel for flat inodes.
fn flat_extent<A: Areas>(image: &A, inode: &Inode, offset: u64) -> Result<Extent, Error> {
    let unit = image.superblock().block_size;
    let inline = inode.inline_size(unit.bytes());
    let in_blocks = inode.size.saturating_sub(inline);
    if offset >= in_blocks {
        let start = inode.tail()?;
        // The kernel reads one block for the inline data.
        if unit.within(start).saturating_add(inline) > unit.bytes() {
            return Err(inode.corrupt(start, Detail::InlineData(inline)));
        }
        return Ok(Extent {
            logical: in_blocks,
            length: inline,
            source: Source::Inline { offset: start },
        });
    }
    let source = match inode.start_block {
        None => Source::Hole,
        Some(block) => {
            let (device, offset) = image.storage().locate(inode.nid, 0, block)?;
            Source::Data { device, offset }
        }
    };
    Ok(Extent {
        logical: 0,
        length: in_blocks,
        source,
    })
}

/// The chunk table of an inode: block addresses of 4 bytes, or indexes of 8 with a device each.
#[derive(Debug)]
struct ChunkTable {
    /// Where it begins in the inode's area, in bytes.
    start: u64,
    /// Bytes per entry.
    unit: u64,
    /// log2 of the chunk size in bytes.
    chunk_bits: u32,
    chunks: u64,
    /// The chunk that `window` begins with.
    window_start: u64,
    window: Vec<u8>,
}

/// The bytes of a chunk table to read at once.
const WINDOW: u64 = 4096;

impl ChunkTable {
    fn new<A: Areas>(image: &A, inode: &Inode) -> Result<Self, Error> {
        let bits = inode.chunk_format & format::EROFS_CHUNK_FORMAT_BLKBITS_MASK;
        // At most 16 + 31.
        let chunk_bits = image
            .superblock()
            .block_size
            .bits()
            .saturating_add(bits.into());
        let unit = if inode.chunk_format & format::EROFS_CHUNK_FORMAT_INDEXES != 0 {
            wide(size_of::<ChunkIndex>())
        } else {
            wide(size_of::<U32>())
        };
        let chunks = inode.size.div_ceil(1_u64.wrapping_shl(chunk_bits));
        let tail = inode.tail()?;
        let overflow = || inode.corrupt(tail, Detail::AddressOverflow);
        let start = align_up(tail, unit).ok_or_else(overflow)?;
        let length = chunks.checked_mul(unit).ok_or_else(overflow)?;
        // This bounds the number of chunks by the size of the image.
        image.check_area(inode.area(), inode.nid, start, length)?;
        Ok(Self {
            start,
            unit,
            chunk_bits,
            chunks,
            window_start: 0,
            window: Vec::new(),
        })
    }

    fn extent_at<A: Areas>(
        &mut self,
        image: &A,
        inode: &Inode,
        offset: u64,
    ) -> Result<Extent, Error> {
        let mut chunk = offset.wrapping_shr(self.chunk_bits);
        let mut extent = self.chunk_extent(image, inode, chunk)?;
        // Only as far as the window reaches, so that a call never takes long.
        while extent.end() < inode.size {
            chunk = chunk.saturating_add(1);
            if self.entry(chunk).is_none() {
                break;
            }
            let next = self.chunk_extent(image, inode, chunk)?;
            if !extent.absorb(&next) {
                break;
            }
        }
        Ok(extent)
    }

    fn chunk_extent<A: Areas>(
        &mut self,
        image: &A,
        inode: &Inode,
        chunk: u64,
    ) -> Result<Extent, Error> {
        if self.entry(chunk).is_none() {
            self.load(image, inode, chunk)?;
        }
        let at = self.start.saturating_add(chunk.saturating_mul(self.unit));
        let entry = self.entry(chunk).unwrap_or_default();
        let logical = chunk.wrapping_shl(self.chunk_bits);
        let length = 1_u64
            .wrapping_shl(self.chunk_bits)
            .min(inode.size.saturating_sub(logical));
        let source = match Self::decode(image, inode, entry) {
            None => Source::Hole,
            Some((device, block)) => {
                let (device, offset) =
                    image
                        .storage()
                        .locate(inode.nid, device, block)
                        .map_err(|e| match e {
                            Error::Corrupt { nid, what, .. } => Error::Corrupt {
                                nid,
                                offset: at,
                                what,
                            },
                            other => other,
                        })?;
                Source::Data { device, offset }
            }
        };
        Ok(Extent {
            logical,
            length,
            source,
        })
    }

    /// The device and block address of a table entry; `None` for a hole.
    fn decode<A>(image: &A, inode: &Inode, entry: &[u8]) -> Option<(u16, u64)>
    where
        A: Areas,
    {
        const NULL: u64 = 0xffff_ffff;
        if let Ok(index) = ChunkIndex::ref_from_bytes(entry) {
            let (hi, null) = if inode.chunk_format & format::EROFS_CHUNK_FORMAT_48BIT != 0 {
                (index.startblk_hi.get(), 0xffff_ffff_ffff)
            } else {
                (0, NULL)
            };
            let block = u64::from(index.startblk_lo.get()) | u64::from(hi).wrapping_shl(32);
            // The kernel ignores the bits that no device of the table needs.
            let devices = image.superblock().devices.len();
            let mask = devices
                .saturating_add(1)
                .checked_next_power_of_two()
                .unwrap_or(0x1_0000)
                .saturating_sub(1);
            let mask = u16::try_from(mask).unwrap_or(u16::MAX);
            return (block != null).then_some((index.device_id.get() & mask, block));
        }
        let block = U32::ref_from_bytes(entry).map_or(NULL, |block| block.get().into());
        (block != NULL).then_some((0, block))
    }

    fn entry(&self, chunk: u64) -> Option<&[u8]> {
        let index = narrow(chunk.checked_sub(self.window_start)?);
        let unit = narrow(self.unit);
        let start = index.checked_mul(unit)?;
        self.window.get(start..start.checked_add(unit)?)
    }

    fn load<A: Areas>(&mut self, image: &A, inode: &Inode, chunk: u64) -> Result<(), Error> {
        let left = self.chunks.saturating_sub(chunk).saturating_mul(self.unit);
        self.window.clear();
        self.window.resize(narrow(left.min(WINDOW)), 0);
        self.window_start = chunk;
        let at = self.start.saturating_add(chunk.saturating_mul(self.unit));
        image.read_area(inode.area(), inode.nid, &mut self.window, at)
    }
}

impl Inode {
    /// Fails unless `extent`, which contains byte `offset` of the inode's data, begins there. The
    /// extent after another one begins at that one's end, unless records are out of order, which
    /// can make a binary search go back.
    pub(crate) fn check_order(&self, extent: &Extent, offset: u64) -> Result<(), Error> {
        if extent.logical == offset {
            return Ok(());
        }
        let what = Detail::ExtentOrder {
            logical: extent.logical,
            expected: offset,
        };
        Err(self.corrupt(self.position, what))
    }
}
