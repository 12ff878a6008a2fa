//! The packed inode: a hidden file of which other files' contents are fragments.

use std::collections::HashMap;
use std::io::{Seek, Write};

use crate::compress::{
    Batch, Compressed, Contents, Cut, Cutter, End, Extent, Fingerprint, Hasher, Piece, Place, Run,
    Runs, Tail, Ticket,
};
use crate::{Compression, Error, ImageBuilder};

/// The packed inode's contents, of which most are in the image or on their way there.
///
/// They are cut into pieces as large files are. A piece is written when the next one is full: that is at the same place among the
/// other contents whatever the number of threads.
#[derive(Debug)]
pub(crate) struct Packed {
    cutter: Cutter,
    compression: Compression,
    /// The length of everything.
    size: u64,
    /// What is not given away.
    bytes: Vec<u8>,
    under_way: Option<Ticket>,
    extents: Vec<Extent>,
    runs: Vec<Run>,
    /// Where which fragment is. Fragments are not kept.
    known: HashMap<Fingerprint, u64>,
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.get()
}

impl<W: Write + Seek> ImageBuilder<W> {
    /// Appends a fragment, or finds an equal one where it is all of a file's; gives its offset.
    pub(crate) fn append_fragment(
        &mut self,
        cutter: &Cutter,
        compression: Compression,
        bytes: &[u8],
        once: bool,
    ) -> Result<u64, Error> {
        let mut packed = match self.pipeline().packed.take() {
            Some(packed) => packed,
            None => {
                // Where there is a packed inode, kernels look for the prefixes in it (`erofs_xattr_prefixes_init`).
                let bytes = self.options.xattr_prefixes.table();
                Packed {
                    cutter: cutter.of_packed(),
                    compression,
                    size: bytes.len() as u64,
                    bytes,
                    under_way: None,
                    extents: Vec::new(),
                    runs: Vec::new(),
                    known: HashMap::new(),
                }
            }
        };
        let at = packed.size;
        let known = match once {
            true => *packed.known.entry(fingerprint(bytes)).or_insert(at),
            false => at,
        };
        if known != at {
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
                    self.give_away(&mut packed, false)?;
                }
            }
        }
        self.pipeline().packed = Some(packed);
        Ok(known)
    }

    /// Writes the piece before, and gives away this one.
    fn give_away(&mut self, packed: &mut Packed, last: bool) -> Result<(), Error> {
        self.write_packed(packed)?;
        let bytes = std::mem::take(&mut packed.bytes);
        let piece = Piece {
            cutter: packed.cutter,
            length: bytes.len(),
            // Nobody looks for the index.
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

    fn write_packed(&mut self, packed: &mut Packed) -> Result<(), Error> {
        let Some(ticket) = packed.under_way.take() else {
            return Ok(());
        };
        for (
            _,
            Cut {
                blocks, extents, ..
            },
        ) in ticket.wait()?
        {
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
        Ok(())
    }

    /// Writes what is left.
    pub(crate) fn end_packed(&mut self, mut packed: Packed) -> Result<Contents, Error> {
        if !packed.bytes.is_empty() {
            self.give_away(&mut packed, true)?;
        }
        self.write_packed(&mut packed)?;
        let plain = packed.extents.iter().all(|extent| extent.plain);
        let place = match &packed.runs[..] {
            [run] if plain => Place::Flat { block: run.block },
            runs => Place::Compressed(Box::new(Compressed {
                size: packed.size,
                compression: packed.compression,
                extents: packed.extents.into(),
                runs: Runs::new(runs),
                tail: Tail::Cluster,
            })),
        };
        Ok(Contents {
            size: packed.size,
            place,
        })
    }
}
