//! Writes fragments: the contents of the packed inode.

use std::io::{Seek, Write};

use super::area::ContentArea;
use super::packed::{Known, Packed};
use crate::compress::{
    Batch, Compressed, Compression, Cut, Cuts, Cutter, End, Piece, Place, Rest, Run, Tail,
};
use crate::error::Error;

impl<W: Write + Seek> ContentArea<W> {
    /// Appends a fragment, or finds an equal one if it is a whole file, and returns its offset.
    pub(super) fn append_fragment(
        &mut self,
        cutter: &Cutter,
        compression: Compression,
        bytes: &[u8],
        once: bool,
    ) -> Result<u64, Error> {
        let mut packed = match self.pipeline().packed.take() {
            Some(packed) => packed,
            None => {
                // Where there is a packed inode, kernels look for the prefixes in it
                // (`erofs_xattr_prefixes_init`).
                let bytes = self.options.xattr_prefixes.table();
                Packed {
                    cutter: cutter.of_packed(),
                    compression,
                    size: bytes.len() as u64,
                    bytes,
                    under_way: None,
                    extents: Vec::new(),
                    runs: Vec::new(),
                    rest: Rest::None,
                    known: Known::new(),
                }
            }
        };
        let at = packed.size;
        let known = match once {
            true => packed.known.find_or_add(bytes, at),
            false => None,
        };
        if known.is_some() {
            self.deduplicated += bytes.len() as u64;
        } else {
            let mut rest = bytes;
            while !rest.is_empty() {
                let room = packed.cutter.piece() - packed.bytes.len();
                let part;
                (part, rest) = rest.split_at(rest.len().min(room));
                packed.bytes.extend_from_slice(part);
                packed.size += part.len() as u64;
                if packed.bytes.len() == packed.cutter.piece() {
                    self.submit_previous(&mut packed, false)?;
                }
            }
        }
        self.pipeline().packed = Some(packed);
        Ok(known.unwrap_or(at))
    }

    /// Writes the previous piece, whose buffer is reused, and submits this one.
    fn submit_previous(&mut self, packed: &mut Packed, last: bool) -> Result<(), Error> {
        let next = self.write_packed(packed)?;
        let bytes = std::mem::replace(&mut packed.bytes, next);
        let piece = Piece {
            cutter: packed.cutter,
            length: bytes.len(),
            // The index is not used.
            end: if last {
                End::File { index: 0 }
            } else {
                End::More
            },
        };
        let batch = Batch {
            bytes,
            pieces: vec![piece],
        };
        packed.under_way = Some(self.pipeline().pool.submit(batch)?);
        Ok(())
    }

    /// Writes the pending piece, and returns its buffer.
    fn write_packed(&mut self, packed: &mut Packed) -> Result<Vec<u8>, Error> {
        let Some(ticket) = packed.under_way.take() else {
            return Ok(Vec::new());
        };
        let Cuts { pieces, bytes } = ticket.wait()?;
        for (
            _,
            Cut {
                blocks,
                extents,
                rest,
                ..
            },
        ) in pieces
        {
            packed.rest = rest;
            if blocks.is_empty() {
                continue;
            }
            let start = self.data_end();
            self.output.seek(start)?;
            self.check_end(start + blocks.len() as u64)?;
            self.output.write(&blocks)?;
            let digest = xxhash_rust::xxh3::xxh3_128(&blocks);
            let block = self.options.block_size.count(start);
            self.check_indexed(block, &extents)?;
            let follows = packed.runs.last().is_some_and(|run| {
                let before = &packed.extents[run.first as usize..];
                let blocks = before.iter().map(|extent| u64::from(extent.blocks));
                run.block + blocks.sum::<u64>() == block
            });
            if !follows {
                packed.runs.push(Run {
                    first: packed.extents.len() as u32,
                    block,
                });
            }
            packed.extents.extend(extents);
            self.output.zeros_to(start + blocks.len() as u64)?;
            self.stored(start + blocks.len() as u64, digest, blocks.len() as u64);
        }
        Ok(bytes)
    }

    /// Writes the rest, and returns the index of the packed inode's contents.
    pub(super) fn end_packed(&mut self, mut packed: Packed) -> Result<usize, Error> {
        let block_size = self.options.block_size;
        let (size, compression) = (packed.size, packed.compression);
        // With both, the cutter decides.
        let inline = self.options.inline_tails && !self.options.tail_packing;
        if inline && size == packed.bytes.len() as u64 && size <= block_size.tail_max() {
            let index = self.keep_tail(0, &packed.bytes, size);
            return Ok(self.contents.add(size, Place::Tail { index }));
        }
        if !packed.bytes.is_empty() {
            self.submit_previous(&mut packed, true)?;
        }
        self.write_packed(&mut packed)?;
        let Packed {
            mut extents, runs, ..
        } = packed;
        let flat = match &runs[..] {
            [] => Some(0),
            [run] => Some(run.block),
            _ => None,
        };
        let flat = flat.filter(|_| extents.iter().all(|extent| extent.plain));
        let tail = match (packed.rest, flat) {
            (Rest::Inline { bytes, extent }, Some(block)) if extent.plain => {
                let index = self.keep_tail(block, &bytes, size);
                return Ok(self.contents.add(size, Place::Tail { index }));
            }
            (Rest::Inline { bytes, extent }, _) => {
                extents.push(extent);
                Tail::Inline {
                    kept: self.keep(&bytes),
                    length: bytes.len() as u16,
                }
            }
            (_, Some(block)) => return Ok(self.contents.add(size, Place::Flat { block })),
            _ => Tail::Cluster,
        };
        let contents = Compressed {
            size,
            algorithm: compression.algorithm,
            big: compression.is_big(block_size),
            extents,
            runs,
            tail,
        };
        let place = self.contents.record(&contents, compression, block_size);
        Ok(self.contents.add(size, place))
    }
}
