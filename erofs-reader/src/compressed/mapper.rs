//! The block map of a compressed inode.

use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::encoded::EncodedExtents;
use super::header::*;
use super::index::{Indexes, Kind};
use super::window::Window;
use crate::algorithm::Algorithm;
use crate::areas::Areas;
use crate::corruption::Detail;
use crate::error::Error;
use crate::extent::{Extent, Source};
use crate::format::{self, PCLUSTER_MAX_DSIZE, PCLUSTER_MAX_SIZE};
use crate::inode::{Inode, Layout};
use crate::num::align_up;

/// The description of an inode's clusters.
#[derive(Debug)]
enum Map {
    /// All data is one fragment.
    Fragment(u64),
    Indexes(Indexes),
    Encoded(EncodedExtents),
}

/// Finds the extents of a compressed inode.
#[derive(Debug)]
pub(crate) struct CompressedMapper {
    header: Header,
    map: Map,
    window: Window,
    tail: Option<Tail>,
}

/// The last extent of a file, which may be stored outside a cluster.
#[derive(Clone, Copy, Debug)]
struct Tail {
    /// Where it begins in the file.
    logical: u64,
    source: Source,
}

impl CompressedMapper {
    pub(crate) fn new<A: Areas>(image: &A, inode: &Inode) -> Result<Self, Error> {
        let unit = image.superblock().block_size;
        let mut window = Window::new(inode);
        let position = align_up(inode.tail()?, 8)
            .ok_or_else(|| inode.corrupt(inode.position, Detail::AddressOverflow))?;
        let raw: [u8; 8] = window.array(image, position)?;
        let whole = U64::from_bytes(raw).get();
        let word = |at: usize| {
            let bytes = raw.get(at..).unwrap_or_default();
            U16::read_from_prefix(bytes).map_or(0, |(word, _)| word.get())
        };
        let [_, _, _, _, _, _, algorithms, cluster_bits] = raw;
        let mut header = Header {
            position,
            advise: word(4),
            algorithms: [algorithms & 15, algorithms >> 4],
            cluster_bits: unit.bits().saturating_add((cluster_bits & 15).into()),
            inline_size: word(2),
            low: U32::read_from_prefix(&raw).map_or(0, |(low, _)| low.get()),
            high: word(6),
        };
        let map = if cluster_bits & 0x80 != 0 {
            header.advise = 0;
            Map::Fragment(whole & !(1 << 63))
        } else if inode.layout == Layout::CompressedFull && header.has(ADVISE_EXTENTS) {
            Map::Encoded(EncodedExtents::new(&header, inode)?)
        } else {
            if !image
                .superblock()
                .has_incompat(format::EROFS_FEATURE_INCOMPAT_COMPR_CFGS)
                && header.has(ADVISE_BIG_PCLUSTER_1 | ADVISE_BIG_PCLUSTER_2)
            {
                let what = Detail::CompressionHeader("big clusters without the feature");
                return Err(inode.corrupt(position, what));
            }
            Map::Indexes(Indexes::new(&header, inode)?)
        };
        let mut mapper = Self {
            header,
            map,
            window,
            tail: None,
        };
        mapper.find_tail(image, inode)?;
        Ok(mapper)
    }

    /// Finds the last extent, where it is a fragment or inline.
    fn find_tail<A: Areas>(&mut self, image: &A, inode: &Inode) -> Result<(), Error> {
        let Some(last) = inode.size.checked_sub(1) else {
            return Ok(());
        };
        let inline = self.header.has(ADVISE_INLINE_PCLUSTER);
        let fragment = self.header.has(ADVISE_FRAGMENT_PCLUSTER);
        let Map::Indexes(indexes) = &self.map else {
            return Ok(());
        };
        if !inline && !fragment {
            return Ok(());
        }
        let head = indexes.head(image, &mut self.window, inode, last)?;
        if fragment {
            // Full indexes have room for the upper half.
            let high = match inode.layout {
                Layout::CompressedFull => head.block,
                _ => 0,
            };
            let offset = u64::from(self.header.low) | high.wrapping_shl(32);
            self.tail = Some(Tail {
                logical: head.logical,
                source: Source::Fragment { offset },
            });
            return Ok(());
        }
        let unit = image.superblock().block_size;
        let length = u64::from(self.header.inline_size);
        let offset = indexes.end(inode.size);
        if length == 0 || unit.within(offset).saturating_add(length) > unit.bytes() {
            return Err(inode.corrupt(offset, Detail::InlineData(length)));
        }
        let source = match self.algorithm(image, inode, head.kind)? {
            None => {
                if inode.size.saturating_sub(head.logical) > length {
                    return Err(inode.corrupt(offset, Detail::InlineData(length)));
                }
                Source::Inline { offset }
            }
            Some(algorithm) => Source::CompressedInline {
                offset,
                length,
                algorithm,
            },
        };
        self.tail = Some(Tail {
            logical: head.logical,
            source,
        });
        Ok(())
    }

    /// The algorithm of a cluster of kind `kind`; `None` for one that is not compressed.
    fn algorithm<A: Areas>(
        &self,
        image: &A,
        inode: &Inode,
        kind: Kind,
    ) -> Result<Option<Algorithm>, Error> {
        let [first, second] = self.header.algorithms;
        let number = match kind {
            Kind::Plain => return Ok(None),
            Kind::Head1 => first,
            Kind::Head2 => second,
        };
        known_algorithm(image, inode, self.header.position, number).map(Some)
    }

    /// The extent that byte `offset` is in, which must be less than the inode's size.
    pub(crate) fn at<A: Areas>(
        &mut self,
        image: &A,
        inode: &Inode,
        offset: u64,
    ) -> Result<Extent, Error> {
        if let Some(tail) = self.tail
            && offset >= tail.logical
        {
            return self.check(
                inode,
                Extent {
                    logical: tail.logical,
                    length: inode.size.saturating_sub(tail.logical),
                    source: tail.source,
                },
            );
        }
        let extent = match &mut self.map {
            Map::Fragment(start) => Extent {
                logical: 0,
                length: inode.size,
                source: Source::Fragment { offset: *start },
            },
            Map::Encoded(extents) => {
                extents.at(image, &mut self.window, inode, &self.header, offset)?
            }
            Map::Indexes(_) => self.indexed(image, inode, offset)?,
        };
        self.check(inode, extent)
    }

    fn indexed<A: Areas>(
        &mut self,
        image: &A,
        inode: &Inode,
        offset: u64,
    ) -> Result<Extent, Error> {
        let unit = image.superblock().block_size;
        let Map::Indexes(indexes) = &self.map else {
            return Err(inode.corrupt(self.header.position, Detail::AddressOverflow));
        };
        let head = indexes.head(image, &mut self.window, inode, offset)?;
        let end = indexes.next_head(image, &mut self.window, inode, &head)?;
        let length = end.saturating_sub(head.logical);
        let physical = indexes.physical_length(image, &mut self.window, inode, &head)?;
        let (device, start) = image.storage().locate(inode.nid, 0, head.block)?;
        let algorithm = self.algorithm(image, inode, head.kind)?;
        let Some(algorithm) = algorithm else {
            if length > physical {
                let what = Detail::CompressionIndex {
                    cluster: head.cluster,
                    what: "more bytes than an uncompressed cluster has",
                };
                return Err(inode.corrupt(self.header.position, what));
            }
            let data = Extent {
                logical: head.logical,
                length,
                source: Source::Data {
                    device,
                    offset: start,
                },
            };
            if self.header.has(ADVISE_INTERLACED_PCLUSTER) {
                return Ok(interlaced(data, unit.bytes(), offset));
            }
            return Ok(data);
        };
        Ok(Extent {
            logical: head.logical,
            length,
            source: Source::Compressed {
                device,
                offset: start,
                length: physical,
                algorithm,
            },
        })
    }

    /// Fails where an extent is larger than the format allows, so that decoding it takes bounded
    /// memory.
    fn check(&self, inode: &Inode, extent: Extent) -> Result<Extent, Error> {
        let too_large = match extent.source {
            Source::Compressed { length, .. } | Source::CompressedInline { length, .. } => {
                length > PCLUSTER_MAX_SIZE || extent.length > PCLUSTER_MAX_DSIZE
            }
            _ => false,
        };
        if too_large || extent.length == 0 {
            let what = Detail::CompressionHeader("a cluster of impossible size");
            return Err(inode.corrupt(self.header.position, what));
        }
        Ok(extent)
    }

    /// Where the indexes, and inline data after them, end in the inode's area.
    pub(crate) fn end(&self, inode: &Inode) -> u64 {
        let end = match &self.map {
            Map::Fragment(_) => self.header.end(),
            Map::Indexes(indexes) => indexes.end(inode.size),
            Map::Encoded(extents) => extents.end(inode.size),
        };
        match self.tail {
            Some(Tail {
                source: Source::Inline { .. } | Source::CompressedInline { .. },
                ..
            }) => end.saturating_add(self.header.inline_size.into()),
            _ => end,
        }
    }
}
