//! Contents are cut into extents, each of which is encoded into a physical cluster of a given size
//! at most.

use std::io;

use super::dedupe::Index;
use super::encode::{Encode, Packed};
use super::extent::Extent;
use super::options::{Compression, Fragments};
use crate::options::Options;

/// The part of contents that is not in their own blocks.
#[derive(Debug)]
pub(crate) enum Rest {
    /// Nothing.
    None,
    /// The last extent's cluster, which can stand after the inode's indexes.
    Inline { bytes: Vec<u8>, extent: Extent },
    /// The end, to be packed with others' as it is.
    Fragment(Vec<u8>),
}

/// The result of cutting a piece of contents.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Whole blocks.
    pub(crate) blocks: Vec<u8>,
    /// The extents in the blocks; none if all of it is uncompressed.
    pub(crate) extents: Vec<Extent>,
    /// The extents whose blocks exist already, with the numbers of the extents that own the blocks.
    /// Numbers count all extents with own blocks in deduplicated files.
    pub(crate) references: Vec<(u32, u32)>,
    pub(crate) rest: Rest,
}

/// Options of cutting contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cutter {
    /// `None` stores them.
    pub(crate) compression: Option<Compression>,
    block: usize,
    cluster: usize,
    /// The longest tail after an inode; 0 where there is to be none.
    tail_max: usize,
    fragments: Fragments,
    dedupe: bool,
}

impl Cutter {
    pub(crate) fn new(compression: Option<Compression>, options: &Options) -> Self {
        let block_size = options.block_size;
        let inline = match compression {
            Some(_) => options.tail_packing,
            None => options.inline_tails,
        };
        let cluster = compression.map_or(block_size.bytes(), |how| how.cluster(block_size));
        Self {
            compression,
            block: block_size.bytes() as usize,
            cluster: cluster as usize,
            tail_max: if inline {
                block_size.tail_max() as usize
            } else {
                0
            },
            fragments: match compression {
                Some(_) => options.fragments,
                None => Fragments::None,
            },
            dedupe: compression.is_some() && options.dedupe_extents,
        }
    }

    /// Returns a cutter for the packed inode, which consists of fragments.
    pub(crate) fn of_packed(self) -> Self {
        Self {
            fragments: Fragments::None,
            dedupe: false,
            ..self
        }
    }

    /// The size of the pieces that are cut independently, so that several threads can work on a
    /// file: whole blocks.
    pub(crate) fn piece(&self) -> usize {
        (16 * self.cluster).max(4 << 20)
    }

    /// The most bytes of contents in one cluster. Distances between clusters have 11 bits of
    /// blocks.
    fn window(&self) -> usize {
        let distances = (1024 * self.block).max(2 * self.cluster);
        (4 * self.cluster).max(2 << 20).min(distances)
    }

    /// Cuts a piece of contents, the `last` one or one before.
    pub(crate) fn cut(
        &self,
        codec: Option<&mut dyn Encode>,
        index: Option<&mut Index>,
        input: &[u8],
        last: bool,
    ) -> io::Result<Cut> {
        let mut cut = Cut {
            blocks: Vec::new(),
            extents: Vec::new(),
            references: Vec::new(),
            rest: Rest::None,
        };
        match codec {
            _ if self.fragments == Fragments::Files => cut.rest = Rest::Fragment(input.to_vec()),
            Some(codec) => {
                let index = index.filter(|_| self.dedupe);
                self.compress(codec, index, input, last, &mut cut)?;
            }
            None => self.store(input, last, &mut cut),
        }
        Ok(cut)
    }

    fn store(&self, input: &[u8], last: bool, cut: &mut Cut) {
        let tail = input.len() % self.block;
        let mut whole = input;
        if last && tail > 0 && tail <= self.tail_max {
            let bytes;
            (whole, bytes) = input.split_at(input.len() - tail);
            cut.rest = Rest::Inline {
                bytes: bytes.to_vec(),
                extent: plain(tail, 0),
            };
        }
        cut.blocks.extend_from_slice(whole);
        self.pad(cut);
    }

    fn compress(
        &self,
        codec: &mut dyn Encode,
        mut index: Option<&mut Index>,
        input: &[u8],
        last: bool,
        cut: &mut Cut,
    ) -> io::Result<()> {
        codec.reset();
        let mut rest = input;
        // Blocks stored without another try, more the longer nothing shrinks.
        let mut skip = 1;
        while !rest.is_empty() {
            if let Some(index) = &index
                && let Some(found) = index.at(rest, self.least())
            {
                cut.references
                    .push((cut.extents.len() as u32, found.number));
                cut.extents.push(found.extent);
                rest = &rest[found.extent.length as usize..];
                continue;
            }
            let window = &rest[..rest.len().min(self.window())];
            let ending = last && window.len() == rest.len();
            if ending && self.is_fragment_unseen(rest.len(), index.is_some()) {
                cut.rest = Rest::Fragment(rest.to_vec());
                return Ok(());
            }
            // A block cannot become smaller, but a tail or fragment can.
            let elsewhere = self.tail_max > 0 || self.fragments == Fragments::Tails;
            let mut packed = if rest.len() > self.block || (ending && elsewhere) {
                codec.pack(window, self.cluster)?
            } else {
                Packed::default()
            };
            if let Some(index) = &index
                && let Some(shorter) = self.up_to_known(codec, index, rest, packed.consumed)?
            {
                packed = shorter;
            }
            if ending {
                let size = packed.bytes.len();
                let ends = packed.consumed == rest.len() && is_sound(&packed);
                if self.fragments == Fragments::Tails && ends && size < self.cluster {
                    cut.rest = Rest::Fragment(rest.to_vec());
                    return Ok(());
                }
                if ends && let Some((whole, behind)) = self.before_tail(codec, rest, size)? {
                    let contents = &rest[..whole.consumed];
                    self.put(&whole, contents, index, cut);
                    cut.rest = behind;
                    return Ok(());
                }
                if let Some(inline) = self.inline(rest, &packed) {
                    cut.rest = inline;
                    return Ok(());
                }
            }
            if self.is_worth(&packed) {
                let contents;
                (contents, rest) = rest.split_at(packed.consumed);
                self.put(&packed, contents, index.as_deref_mut(), cut);
                skip = 1;
                continue;
            }
            for stored in 0..skip {
                // The end may fit after the inode or in the packed inode.
                if rest.is_empty() || (stored > 0 && rest.len() < self.block) {
                    break;
                }
                let (part, behind) = rest.split_at(rest.len().min(self.block));
                cut.blocks.extend_from_slice(part);
                self.pad(cut);
                let extent = plain(part.len(), 1);
                cut.extents.push(extent);
                if let Some(index) = &mut index {
                    index.add(extent, part);
                }
                rest = behind;
            }
            skip = (skip * 2).min(self.cluster / self.block).max(1);
        }
        Ok(())
    }

    /// Whether an end of so many bytes cannot fill a cluster even if it does not shrink, so that
    /// encoding it is useless. With deduplication it may contain a known part, unless it is shorter
    /// than a block.
    fn is_fragment_unseen(&self, length: usize, deduplicated: bool) -> bool {
        let most = length + length / 128 + 64;
        let fits = length < self.block || !deduplicated && most < self.cluster;
        self.fragments == Fragments::Tails && fits
    }

    /// The shortest part that is referred to. The second logical cluster of an extent holds its
    /// number of blocks.
    fn least(&self) -> usize {
        match self.cluster > self.block {
            true => 2 * self.block,
            false => self.block,
        }
    }

    /// Whether a cluster takes fewer blocks than what is in it, and decoders find all of it.
    fn is_worth(&self, packed: &Packed) -> bool {
        packed.consumed > packed.bytes.len().next_multiple_of(self.block) && is_sound(packed)
    }

    /// Writes a cluster of `contents`.
    fn put(&self, packed: &Packed, contents: &[u8], index: Option<&mut Index>, cut: &mut Cut) {
        let size = packed.bytes.len();
        let length = size.next_multiple_of(self.block);
        cut.blocks.resize(cut.blocks.len() + length - size, 0);
        cut.blocks.extend_from_slice(&packed.bytes);
        let extent = Extent {
            blocks: (length / self.block) as u16,
            plain: false,
            ..plain(contents.len(), 0)
        };
        cut.extents.push(extent);
        if let Some(index) = index {
            index.add(extent, contents);
        }
    }

    /// What ends the contents, `packed` being its code or not, after the inode, where it fits.
    fn inline(&self, input: &[u8], packed: &Packed) -> Option<Rest> {
        let size = packed.bytes.len();
        let compressed = packed.consumed == input.len() && is_sound(packed) && size < input.len();
        let (bytes, plain_one) = match compressed && size <= self.tail_max {
            true => (&packed.bytes[..], false),
            false => (input, true),
        };
        (bytes.len() <= self.tail_max).then(|| Rest::Inline {
            bytes: bytes.to_vec(),
            extent: Extent {
                plain: plain_one,
                ..plain(input.len(), 0)
            },
        })
    }

    /// The beginning of the last `input`, which was encoded into `size` bytes, in whole blocks, and
    /// the rest of it after the inode, where it fits: otherwise it would need one more block for a
    /// part of it.
    fn before_tail(
        &self,
        codec: &mut dyn Encode,
        input: &[u8],
        size: usize,
    ) -> io::Result<Option<(Packed, Rest)>> {
        let over = size % self.block;
        // The rest alone does not shrink as well.
        if over == 0 || over == size || over > self.tail_max - self.tail_max / 16 {
            return Ok(None);
        }
        let whole = codec.pack(input, size - over)?;
        let behind = &input[whole.consumed..];
        if !self.is_worth(&whole) || behind.is_empty() {
            return Ok(None);
        }
        let tail = codec.pack(behind, self.tail_max)?;
        Ok(self.inline(behind, &tail).map(|rest| (whole, rest)))
    }

    /// Encodes only up to where something known begins, where that is within the next `consumed`
    /// bytes and worth an unfilled cluster before it.
    fn up_to_known(
        &self,
        codec: &mut dyn Encode,
        index: &Index,
        input: &[u8],
        consumed: usize,
    ) -> io::Result<Option<Packed>> {
        let least = self.least().max(self.cluster / 4);
        // No two extents begin in the same logical cluster.
        let Some((at, _)) = index.next(input, self.block, consumed, least) else {
            return Ok(None);
        };
        let packed = codec.pack(&input[..at], self.cluster)?;
        Ok((packed.consumed == at && self.is_worth(&packed)).then_some(packed))
    }

    fn pad(&self, cut: &mut Cut) {
        let end = cut.blocks.len().next_multiple_of(self.block);
        cut.blocks.resize(end, 0);
    }
}

/// Whether decoders, which skip zeros before the data, find all of it.
fn is_sound(packed: &Packed) -> bool {
    packed.bytes.first().is_some_and(|&byte| byte != 0)
}

fn plain(length: usize, blocks: u16) -> Extent {
    Extent {
        length: length as u32,
        blocks,
        plain: true,
        partial: false,
    }
}
