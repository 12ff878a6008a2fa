//! Truncating a file whose blocks are mapped one by one, as in ext3.

use std::io::{Read, Seek};

use crate::Error;
use crate::format::EXT4_NDIR_BLOCKS;
use crate::info::read_at;
use crate::truncate::Cut;
use crate::volume::corrupt;

const POINTER: usize = size_of::<u32>();

/// Plans the truncation of a file to its first `keep` blocks, in a filesystem of `blocks` blocks.
/// `offset` is the position of its inode.
///
/// As the kernel does it, indirect blocks that then hold no pointer become free too, unless they
/// were so before (`ext4_ind_truncate`).
pub(crate) fn cut(
    image: &mut (impl Read + Seek),
    i_block: &[u8; 60],
    offset: u64,
    (block_size, blocks): (u32, u64),
    keep: u64,
) -> Result<Cut, Error> {
    let mut cutter = Cutter {
        image,
        block_size,
        blocks,
        keep,
        left: blocks,
        cut: Cut {
            root: *i_block,
            nodes: Vec::new(),
            freed: Vec::new(),
            last: None,
        },
    };
    let mut root = *i_block;
    let (direct, indirect) = root.split_at_mut(EXT4_NDIR_BLOCKS as usize * POINTER);
    cutter.pointers(direct, offset, 0, 0)?;
    let mut first = EXT4_NDIR_BLOCKS;
    for (pointer, height) in indirect.chunks_exact_mut(POINTER).zip(1..) {
        cutter.pointers(pointer, offset, first, height)?;
        first += cutter.span(height);
    }
    cutter.cut.root = root;
    Ok(cutter.cut)
}

struct Cutter<'a, I> {
    image: &'a mut I,
    block_size: u32,
    blocks: u64,
    keep: u64,
    /// How many blocks the file may still have: no more than the filesystem.
    left: u64,
    cut: Cut,
}

impl<I: Read + Seek> Cutter<'_, I> {
    /// How many blocks of the file a pointer stands for, with so many levels of indirect blocks
    /// below it.
    fn span(&self, height: u32) -> u64 {
        u64::from(self.block_size / POINTER as u32).pow(height)
    }

    /// Removes pointers to truncated blocks. The first pointer is for the file's block `first`. The
    /// pointers lie at `offset`, or in the inode at `offset`.
    fn pointers(
        &mut self,
        pointers: &mut [u8],
        offset: u64,
        first: u64,
        height: u32,
    ) -> Result<(), Error> {
        let span = self.span(height);
        for (pointer, number) in pointers.as_chunks_mut().0.iter_mut().zip(0..) {
            let block = u64::from(u32::from_le_bytes(*pointer));
            let first = first + number * span;
            if block == 0 || first + span < self.keep {
                continue;
            }
            self.left = self
                .left
                .checked_sub(1)
                .filter(|_| block < self.blocks)
                .ok_or_else(|| corrupt("i_block", offset))?;
            let kept = match height {
                0 => first < self.keep,
                _ => self.indirect(block, first, height)?,
            };
            if !kept {
                *pointer = [0; POINTER];
                match self.cut.freed.last_mut() {
                    Some(run) if run.end == block => run.end += 1,
                    _ => self.cut.freed.push(block..block + 1),
                }
            } else if height == 0 && first + 1 == self.keep {
                self.cut.last = Some(block);
            }
        }
        Ok(())
    }

    /// Removes pointers to truncated blocks from an indirect block, and returns whether the block
    /// is kept.
    fn indirect(&mut self, block: u64, first: u64, height: u32) -> Result<bool, Error> {
        let at = block * u64::from(self.block_size);
        let mut bytes = vec![0; self.block_size as usize];
        read_at(self.image, at, &mut bytes)?;
        let before = bytes.clone();
        self.pointers(&mut bytes, at, first, height - 1)?;
        let reaches_behind = first + self.span(height) > self.keep;
        if reaches_behind && bytes.iter().all(|&byte| byte == 0) {
            return Ok(false);
        }
        if bytes != before {
            self.cut.nodes.push((block, bytes));
        }
        Ok(true)
    }
}
