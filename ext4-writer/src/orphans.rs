//! Orphans: files that were deleted while open, or were being truncated, when the filesystem was
//! interrupted. The kernel keeps them in a list through their inodes (`s_last_orphan`), and in the
//! orphan file (`fs/ext4/orphan.c`).

mod attributes;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, Write};

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::checksum::Checksum;
use crate::format::{
    EXT4_EA_INODE_FL, EXT4_EXTENTS_FL, EXT4_GOOD_OLD_FIRST_INO, EXT4_HUGE_FILE_FL,
    EXT4_INLINE_DATA_FL, EXT4_ORPHAN_BLOCK_MAGIC, Inode, OrphanBlockTail, S_IFDIR, S_IFLNK, S_IFMT,
    S_IFREG, compat, ro_compat,
};
use crate::info::{read_at, write_at};
use crate::mapped::Mapped;
use crate::quota::{Owner, Usage};
use crate::volume::{Volume, corrupt};
use crate::{Error, indirect, node, orphan_file, truncate};

/// Whether the superblock says that there are orphans.
pub(crate) fn are_noted(superblock: &crate::format::SuperBlock) -> bool {
    superblock.s_last_orphan.get() != 0
        || superblock.s_feature_ro_compat.get() & ro_compat::ORPHAN_PRESENT != 0
}

/// Frees deleted files, completes truncations, and writes all changes except the superblock. The
/// caller writes the superblock, without orphans.
pub(crate) fn release(
    image: &mut (impl Read + Write + Seek),
    volume: &mut Volume,
) -> Result<(), Error> {
    let mut release = Release {
        image,
        volume,
        changed: BTreeMap::new(),
        inodes: BTreeMap::new(),
        fixed: Vec::new(),
        freed: BTreeMap::new(),
    };
    let orphans = release.find()?;
    release.fixed = release.volume.geometry.reserved();
    for ino in orphans {
        release.orphan(ino)?;
    }
    release.settle()?;
    let Release {
        image,
        volume,
        changed,
        inodes,
        ..
    } = release;
    for (block, bytes) in changed {
        write_at(image, volume.offset(block), &bytes)?;
    }
    for group in volume.write_bitmaps(image)? {
        let descriptor = &volume.descriptors[group as usize];
        let at = volume.geometry.descriptor_offset(group);
        write_at(image, at, descriptor.as_bytes())?;
    }
    for (ino, inode) in inodes {
        write_at(image, volume.geometry.inode_offset(ino), inode.as_bytes())?;
    }
    volume.superblock.s_last_orphan = 0.into();
    volume.superblock.s_feature_ro_compat &= !ro_compat::ORPHAN_PRESENT;
    Ok(())
}

struct Release<'a, I> {
    image: &'a mut I,
    volume: &'a mut Volume,
    /// Blocks to write: extent nodes, attribute blocks, blocks of the orphan file and of quota
    /// files, ends of files.
    changed: BTreeMap<u64, Vec<u8>>,
    /// Inodes to write.
    inodes: BTreeMap<u32, Inode>,
    /// Blocks that files cannot use.
    fixed: Vec<std::ops::Range<u64>>,
    /// The freed usage of users, groups and projects.
    freed: BTreeMap<(Owner, u32), Usage>,
}

impl<I: Read + Write + Seek> Release<'_, I> {
    /// All recorded orphans.
    fn find(&mut self) -> Result<BTreeSet<u32>, Error> {
        let mut orphans = BTreeSet::new();
        let mut next = self.volume.superblock.s_last_orphan.get();
        while next != 0 {
            let (inode, offset) = self.inode(next)?;
            if !orphans.insert(next) {
                return Err(corrupt("orphan list", offset));
            }
            // The field that holds the next orphan.
            next = inode.i_dtime.get();
        }
        let superblock = &self.volume.superblock;
        if superblock.s_feature_compat.get() & compat::ORPHAN_FILE != 0
            && superblock.s_feature_ro_compat.get() & ro_compat::ORPHAN_PRESENT != 0
        {
            self.read_file(&mut orphans)?;
        }
        Ok(orphans)
    }

    fn read_file(&mut self, orphans: &mut BTreeSet<u32>) -> Result<(), Error> {
        let ino = self.volume.superblock.s_orphan_file_inum.get();
        let (inode, offset) = self.inode(ino)?;
        if inode.i_flags.get() & EXT4_EXTENTS_FL == 0 {
            return Err(corrupt("orphan file", offset));
        }
        let seed = self.seed(ino, &inode);
        let geometry = &self.volume.geometry;
        let (block_size, blocks) = (geometry.block_size, geometry.blocks);
        let map = Mapped::read(self.image, &inode, offset, seed, block_size, blocks)?;
        for block in map.sorted().into_iter().flatten() {
            let at = self.volume.offset(block);
            let mut bytes = vec![0; block_size as usize];
            read_at(self.image, at, &mut bytes)?;
            let end = bytes.len() - size_of::<OrphanBlockTail>();
            let stored = bytes.clone();
            orphan_file::seal(&mut bytes, block, seed);
            let tail = OrphanBlockTail::read_from_bytes(&bytes[end..]);
            let magic = tail.is_ok_and(|tail| tail.ob_magic.get() == EXT4_ORPHAN_BLOCK_MAGIC);
            if !magic || bytes != stored {
                return Err(corrupt("ext4_orphan_block_tail", at));
            }
            let listed: Vec<u32> = bytes[..end]
                .as_chunks()
                .0
                .iter()
                .map(|ino| u32::from_le_bytes(*ino))
                .filter(|ino| *ino != 0)
                .collect();
            if listed.is_empty() {
                continue;
            }
            orphans.extend(listed);
            bytes[..end].fill(0);
            orphan_file::seal(&mut bytes, block, seed);
            self.changed.insert(block, bytes);
        }
        Ok(())
    }

    /// The new inode of a file, and its position.
    fn inode(&mut self, ino: u32) -> Result<(Inode, u64), Error> {
        if ino < EXT4_GOOD_OLD_FIRST_INO {
            return Err(corrupt("orphan list", crate::format::SUPERBLOCK_OFFSET));
        }
        self.any_inode(ino)
    }

    /// Reads an inode, which may have no name.
    fn any_inode(&mut self, ino: u32) -> Result<(Inode, u64), Error> {
        let geometry = &self.volume.geometry;
        if !(1..=geometry.inodes()).contains(&ino) {
            return Err(corrupt("orphan list", crate::format::SUPERBLOCK_OFFSET));
        }
        let offset = geometry.inode_offset(ino);
        if let Some(inode) = self.inodes.get(&ino) {
            return Ok((inode.clone(), offset));
        }
        let mut inode = Inode::new_zeroed();
        read_at(self.image, offset, inode.as_mut_bytes())?;
        let stored = (inode.l_i_checksum_lo.get(), inode.i_checksum_hi.get());
        let seed = self.seed(ino, &inode);
        if node::seal(&mut inode, seed) != stored {
            return Err(corrupt("ext4_inode", offset));
        }
        Ok((inode, offset))
    }

    fn seed(&self, ino: u32, inode: &Inode) -> Checksum {
        let seed = self.volume.seed.add(&ino.to_le_bytes());
        seed.add(inode.i_generation.as_bytes())
    }

    /// Plans the changes for an orphan.
    fn orphan(&mut self, ino: u32) -> Result<(), Error> {
        let (mut inode, offset) = self.inode(ino)?;
        let deleted = inode.i_links_count.get() == 0;
        let flags = inode.i_flags.get();
        let kind = inode.i_mode.get() & S_IFMT;
        let size = u64::from(inode.i_size_lo.get()) | u64::from(inode.i_size_high.get()) << 32;
        let block_size = u64::from(self.volume.geometry.block_size);
        let sectors =
            u64::from(inode.i_blocks_lo.get()) | u64::from(inode.l_i_blocks_high.get()) << 32;
        let acl =
            u64::from(inode.i_file_acl_lo.get()) | u64::from(inode.l_i_file_acl_high.get()) << 32;
        let per_block = match flags & EXT4_HUGE_FILE_FL {
            0 => block_size / 512,
            _ => 1,
        };
        let has_blocks = sectors > per_block * u64::from(acl != 0);
        let mut usage = Usage::default();

        let keep = if deleted {
            0
        } else {
            size.div_ceil(block_size)
        };
        let geometry = &self.volume.geometry;
        let extent = (geometry.block_size, geometry.blocks);
        let cut = if flags & EXT4_EXTENTS_FL != 0 {
            let seed = self.seed(ino, &inode);
            let cut = truncate::cut(self.image, &inode.i_block, offset, seed, extent, keep)?;
            Some(cut)
        } else if has_blocks
            && flags & EXT4_INLINE_DATA_FL == 0
            && matches!(kind, S_IFREG | S_IFDIR | S_IFLNK)
        {
            let cut = indirect::cut(self.image, &inode.i_block, offset, extent, keep)?;
            Some(cut)
        } else {
            None
        };
        if let Some(cut) = cut {
            let freed: u64 = cut.freed.iter().map(|run| run.end - run.start).sum();
            for run in cut.freed {
                self.free(run, offset)?;
            }
            if !deleted {
                inode.i_block = cut.root;
                let left = sectors
                    .checked_sub(freed * per_block)
                    .ok_or_else(|| corrupt("i_blocks", offset))?;
                inode.i_blocks_lo = (left as u32).into();
                inode.l_i_blocks_high = ((left >> 32) as u16).into();
                usage.space = freed * block_size;
                self.changed.extend(cut.nodes);
                let end = (size % block_size) as usize;
                if let (Some(block), 1.., S_IFREG) = (cut.last, end, kind) {
                    let mut bytes = self.block(block)?;
                    bytes[end..].fill(0);
                    self.changed.insert(block, bytes);
                }
            }
        }
        if deleted {
            usage = Usage {
                space: sectors.saturating_mul(block_size / per_block),
                inodes: 1 + self.release_xattrs(&inode, offset, acl)?,
            };
        }
        // Values of attributes are accounted to the owners of the inodes that use them.
        if flags & EXT4_EA_INODE_FL == 0 {
            self.account(&inode, usage);
        }
        if deleted {
            self.volume.free_inode(self.image, ino, kind == S_IFDIR)?;
            self.inodes.insert(ino, Inode::new_zeroed());
        } else {
            inode.i_dtime = 0.into();
            self.put_inode(ino, inode);
        }
        Ok(())
    }

    fn put_inode(&mut self, ino: u32, mut inode: Inode) {
        let seed = self.seed(ino, &inode);
        node::seal(&mut inode, seed);
        self.inodes.insert(ino, inode);
    }

    /// The new contents of a block.
    fn block(&mut self, block: u64) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = self.changed.get(&block) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; self.volume.geometry.block_size as usize];
        read_at(self.image, self.volume.offset(block), &mut bytes)?;
        Ok(bytes)
    }

    fn free(&mut self, run: std::ops::Range<u64>, offset: u64) -> Result<(), Error> {
        let behind = self.fixed.partition_point(|fixed| fixed.end <= run.start);
        let first = self.volume.geometry.first_block;
        if run.start < first
            || self
                .fixed
                .get(behind)
                .is_some_and(|fixed| fixed.start < run.end)
        {
            return Err(corrupt("i_block", offset));
        }
        self.volume.free_blocks(self.image, run)
    }
}
