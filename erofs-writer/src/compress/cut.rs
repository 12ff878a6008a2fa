//! Contents are cut into extents, each of which is encoded into a physical cluster of a given size at most.

use std::io;

use super::codec::{Encode, Packed};
use super::options::{Compression, Fragments};
use crate::{Options, plan};

/// Contents between two borders, and the blocks that hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of contents.
    pub(crate) length: u32,
    /// None of those that are in no cluster of their own.
    pub(crate) blocks: u16,
    /// Not compressed: then they are one block at most.
    pub(crate) plain: bool,
}

/// What of contents is not in blocks of their own.
#[derive(Debug)]
pub(crate) enum Rest {
    /// Nothing.
    None,
    /// The last extent's cluster, which can stand behind the inode's indexes.
    Inline { bytes: Vec<u8>, extent: Extent },
    /// The end, to be packed with others' as it is.
    Fragment(Vec<u8>),
}

/// A piece of contents, cut.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Whole blocks.
    pub(crate) blocks: Vec<u8>,
    /// The extents in them; none where all is as it was.
    pub(crate) extents: Vec<Extent>,
    pub(crate) rest: Rest,
}

/// How contents are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cutter {
    /// `None` stores them.
    pub(crate) compression: Option<Compression>,
    block: usize,
    cluster: usize,
    /// The longest tail behind an inode; 0 where there is to be none.
    tail_max: usize,
    fragments: Fragments,
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
                plan::tail_max(block_size) as usize
            } else {
                0
            },
            fragments: match compression {
                Some(_) => options.fragments,
                None => Fragments::None,
            },
        }
    }

    /// Cuts the fragments that others left.
    pub(crate) fn of_packed(self) -> Self {
        Self {
            tail_max: 0,
            fragments: Fragments::None,
            ..self
        }
    }

    /// Bytes of contents that are cut by themselves, so that several threads can work on a file: whole blocks.
    pub(crate) fn piece(&self) -> usize {
        (16 * self.cluster).max(4 << 20)
    }

    /// Bytes of contents from which one cluster is filled. Distances between clusters have 11 bits of blocks.
    fn window(&self) -> usize {
        let distances = (1024 * self.block).max(2 * self.cluster);
        (4 * self.cluster).max(1 << 20).min(distances)
    }

    /// Cuts a piece of contents, the `last` one or one before.
    pub(crate) fn cut(
        &self,
        codec: Option<&mut dyn Encode>,
        input: &[u8],
        last: bool,
    ) -> io::Result<Cut> {
        let mut cut = Cut {
            blocks: Vec::new(),
            extents: Vec::new(),
            rest: Rest::None,
        };
        match codec {
            _ if self.fragments == Fragments::Files => cut.rest = Rest::Fragment(input.to_vec()),
            Some(codec) => self.compress(codec, input, last, &mut cut)?,
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
        input: &[u8],
        last: bool,
        cut: &mut Cut,
    ) -> io::Result<()> {
        codec.reset();
        let mut rest = input;
        // Blocks stored without another try, more the longer nothing shrinks.
        let mut skip = 1;
        while !rest.is_empty() {
            let window = &rest[..rest.len().min(self.window())];
            let ending = last && window.len() == rest.len();
            // A block cannot become smaller, but what goes elsewhere can.
            let elsewhere = self.tail_max > 0 || self.fragments == Fragments::Tails;
            let packed = if rest.len() > self.block || (ending && elsewhere) {
                codec.pack(window, self.cluster)?
            } else {
                Packed::default()
            };
            let size = packed.bytes.len();
            // Decoders skip zeros before the data.
            let sound = packed.bytes.first().is_some_and(|&byte| byte != 0);
            if ending {
                let ends = packed.consumed == rest.len() && sound;
                if self.fragments == Fragments::Tails
                    && (ends && size < self.cluster || rest.len() < self.block)
                {
                    cut.rest = Rest::Fragment(rest.to_vec());
                    return Ok(());
                }
                if ends && size <= self.tail_max && size < rest.len() {
                    cut.rest = Rest::Inline {
                        bytes: packed.bytes,
                        extent: Extent {
                            plain: false,
                            ..plain(rest.len(), 0)
                        },
                    };
                    return Ok(());
                }
                if rest.len() <= self.tail_max {
                    cut.rest = Rest::Inline {
                        bytes: rest.to_vec(),
                        extent: plain(rest.len(), 0),
                    };
                    return Ok(());
                }
            }
            let length = size.next_multiple_of(self.block);
            if packed.consumed > length && sound {
                cut.blocks.resize(cut.blocks.len() + length - size, 0);
                cut.blocks.extend_from_slice(&packed.bytes);
                cut.extents.push(Extent {
                    length: packed.consumed as u32,
                    blocks: (length / self.block) as u16,
                    plain: false,
                });
                rest = &rest[packed.consumed..];
                skip = 1;
                continue;
            }
            for stored in 0..skip {
                // The end may fit elsewhere.
                if rest.is_empty() || (stored > 0 && rest.len() < self.block) {
                    break;
                }
                let (part, behind) = rest.split_at(rest.len().min(self.block));
                cut.blocks.extend_from_slice(part);
                self.pad(cut);
                cut.extents.push(plain(part.len(), 1));
                rest = behind;
            }
            skip = (skip * 2).min(self.cluster / self.block).max(1);
        }
        Ok(())
    }

    fn pad(&self, cut: &mut Cut) {
        let end = cut.blocks.len().next_multiple_of(self.block);
        cut.blocks.resize(end, 0);
    }
}

fn plain(length: usize, blocks: u16) -> Extent {
    Extent {
        length: length as u32,
        blocks,
        plain: true,
    }
}
