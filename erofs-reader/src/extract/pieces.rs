//! Contents in pieces, which threads read side by side.

use super::input::Input;
use crate::areas::Areas;
use crate::compressed::decode::Decoders;
use crate::error::Error;
use crate::extent::{Extent, Source};
use crate::image::Image;
use crate::inode::Inode;
use crate::mapper::Mapper;
use crate::num::narrow;
use crate::read_at::ReadAt;

/// Bytes that a piece has at most, unless it is a single cluster, which may decode to twelve times
/// that.
pub(super) const PIECE: u64 = 1 << 20;

/// A part of a file's contents.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where it begins in the file, in bytes.
    pub(super) start: u64,
    /// The number of bytes; a hole can have any number.
    pub(super) length: u64,
    /// The extents that hold them, in order and without gaps; empty for a hole.
    pub(super) extents: Vec<Extent>,
}

impl Piece {
    pub(super) fn is_hole(&self) -> bool {
        self.extents.is_empty()
    }
}

/// Iterates over the pieces of a file.
///
/// Holds a part of its block map at most, however large the file is.
#[derive(Debug)]
pub(super) struct Pieces<'a, R> {
    image: &'a Image<R>,
    inode: Inode,
    mapper: Mapper,
    size: u64,
    offset: u64,
    /// What is left of the extent at `offset`, where it was too long for a piece.
    rest: Option<Extent>,
}

impl<'a, R: ReadAt> Pieces<'a, R> {
    pub(super) fn new(image: &'a Image<R>, inode: &Inode) -> Result<Self, Error> {
        Ok(Self {
            image,
            inode: *inode,
            mapper: Mapper::new(image, inode)?,
            size: inode.size(),
            offset: 0,
            rest: None,
        })
    }

    /// The extent, or what is left of it, that begins at `offset`.
    fn extent(&mut self) -> Result<Extent, Error> {
        match self.rest.take() {
            Some(extent) => Ok(extent),
            None => {
                let extent = self.mapper.at(self.image, self.offset)?;
                self.inode.check_order(&extent, self.offset)?;
                Ok(extent)
            }
        }
    }

    fn piece(&mut self) -> Result<Piece, Error> {
        let start = self.offset;
        let limit = start.saturating_add(PIECE);
        let mut extents = Vec::new();
        while self.offset < self.size.min(limit) {
            let extent = self.extent()?;
            let hole = extent.source == Source::Hole;
            let whole = extent.end() <= limit;
            if !extents.is_empty() && (hole || (!whole && !is_divisible(&extent))) {
                self.rest = Some(extent);
                break;
            }
            if hole {
                self.offset = extent.end();
                return Ok(Piece {
                    start,
                    length: extent.length,
                    extents,
                });
            }
            let extent = if whole || !is_divisible(&extent) {
                extent
            } else {
                let (extent, rest) = split(extent, limit);
                self.rest = Some(rest);
                extent
            };
            self.offset = extent.end();
            extents.push(extent);
        }
        Ok(Piece {
            start,
            length: self.offset.saturating_sub(start),
            extents,
        })
    }
}

impl<R: ReadAt> Iterator for Pieces<'_, R> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.size {
            return None;
        }
        let piece = self.piece();
        if piece.is_err() {
            self.size = 0;
        }
        Some(piece)
    }
}

/// Whether a part of the extent can be read without the rest.
fn is_divisible(extent: &Extent) -> bool {
    matches!(
        extent.source,
        Source::Hole | Source::Data { .. } | Source::Inline { .. } | Source::Fragment { .. }
    )
}

/// The parts of a divisible extent before byte `at` of the file, and from there on.
fn split(extent: Extent, at: u64) -> (Extent, Extent) {
    let skip = at.saturating_sub(extent.logical).min(extent.length);
    let (mut first, mut second) = (extent, extent);
    first.length = skip;
    second.logical = extent.logical.saturating_add(skip);
    second.length = extent.length.saturating_sub(skip);
    match &mut second.source {
        Source::Data { offset, .. } | Source::Inline { offset } | Source::Fragment { offset } => {
            *offset = offset.saturating_add(skip);
        }
        _ => {}
    }
    (first, second)
}

/// Reads pieces of any files, one after the other.
#[derive(Debug)]
pub(super) struct PieceReader<'a, R> {
    image: &'a Image<R>,
    input: Input,
    decoders: Decoders,
}

impl<'a, R: ReadAt> PieceReader<'a, R> {
    pub(super) fn new(image: &'a Image<R>) -> Self {
        Self {
            image,
            input: Input::default(),
            decoders: Decoders::default(),
        }
    }

    /// Fills `to`, which has the length of `piece`.
    pub(super) fn read(
        &mut self,
        inode: &Inode,
        piece: &Piece,
        to: &mut [u8],
    ) -> Result<(), Error> {
        if piece.is_hole() {
            to.fill(0);
        }
        let mut extents = &piece.extents[..];
        let mut free = to;
        while let [first, ..] = extents {
            let together = if is_divisible(first) {
                1
            } else {
                adjacent(extents)
            };
            let (these, rest) = extents.split_at_checked(together).unwrap_or_default();
            let length = these
                .iter()
                .fold(0_u64, |sum, extent| sum.saturating_add(extent.length));
            let (to, left) = free
                .split_at_mut_checked(narrow(length))
                .unwrap_or_default();
            self.fill(inode, these, to)?;
            (extents, free) = (rest, left);
        }
        Ok(())
    }

    fn fill(&mut self, inode: &Inode, extents: &[Extent], to: &mut [u8]) -> Result<(), Error> {
        match extents {
            [
                Extent {
                    source: Source::Data { device, offset },
                    ..
                },
            ] => self
                .image
                .storage()
                .read_device(*device, Some(inode.nid()), to, *offset),
            [
                Extent {
                    source: Source::Compressed { device, offset, .. },
                    ..
                },
                ..,
            ] => self.decode(inode, extents, (*device, *offset), to),
            [extent, ..] => self
                .image
                .data(inode)?
                .read_full_at(to, extent.logical)
                .map(drop),
            [] => Ok(()),
        }
    }

    /// Decodes extents whose clusters follow each other on a device, which are read at once.
    fn decode(
        &mut self,
        inode: &Inode,
        extents: &[Extent],
        place: (u16, u64),
        mut to: &mut [u8],
    ) -> Result<(), Error> {
        let stored = extents.iter().fold(0_u64, |sum, extent| {
            sum.saturating_add(stored_length(extent))
        });
        let mut input = self.input.read(self.image, inode.nid(), place, stored)?;
        let padded = self.image.superblock().is_padded();
        for extent in extents {
            let Source::Compressed {
                length, algorithm, ..
            } = extent.source
            else {
                continue;
            };
            let (cluster, rest) = input.split_at_checked(narrow(length)).unwrap_or_default();
            let (output, left) = to
                .split_at_mut_checked(narrow(extent.length))
                .unwrap_or_default();
            self.decoders
                .decode(inode.place(), algorithm, padded, cluster, output)?;
            (input, to) = (rest, left);
        }
        Ok(())
    }
}

fn stored_length(extent: &Extent) -> u64 {
    match extent.source {
        Source::Compressed { length, .. } => length,
        _ => 0,
    }
}

/// How many of `extents` are in clusters that follow each other on a device: 1 at least, and as
/// many as are together a piece's length there.
fn adjacent(extents: &[Extent]) -> usize {
    let mut expected = None;
    let mut stored = 0_u64;
    let count = extents
        .iter()
        .take_while(|extent| {
            let Source::Compressed {
                device,
                offset,
                length,
                ..
            } = extent.source
            else {
                return false;
            };
            stored = stored.saturating_add(length);
            let follows = expected.is_none_or(|place| place == (device, offset));
            expected = Some((device, offset.saturating_add(length)));
            follows && stored <= PIECE
        })
        .count();
    count.max(1)
}
