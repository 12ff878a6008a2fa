//! Reducing the usage of users, groups and projects when their files are freed.

use std::io::{Read, Seek, Write};

use super::Release;
use crate::Error;
use crate::format::{EXT4_EXTENTS_FL, Inode, QUOTA_BLOCK, ro_compat};
use crate::mapped::Mapped;
use crate::quota::{self, Block, Owner, Usage};
use crate::volume::corrupt;

impl<I: Read + Write + Seek> Release<'_, I> {
    /// Records the usage that the owners of an inode no longer have.
    pub(super) fn account(&mut self, inode: &Inode, usage: Usage) {
        let wide = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        for (owner, id) in [
            (
                Owner::User,
                wide(inode.i_uid.get(), inode.l_i_uid_high.get()),
            ),
            (
                Owner::Group,
                wide(inode.i_gid.get(), inode.l_i_gid_high.get()),
            ),
            (Owner::Project, inode.i_projid.get()),
        ] {
            let freed = self.freed.entry((owner, id)).or_default();
            freed.space = freed.space.saturating_add(usage.space);
            freed.inodes = freed.inodes.saturating_add(usage.inodes);
        }
    }

    /// Updates the quota files, if there are any.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let superblock = &self.volume.superblock;
        if superblock.s_feature_ro_compat.get() & ro_compat::QUOTA == 0 {
            return Ok(());
        }
        let files = [
            (Owner::User, superblock.s_usr_quota_inum.get()),
            (Owner::Group, superblock.s_grp_quota_inum.get()),
            (Owner::Project, superblock.s_prj_quota_inum.get()),
        ];
        let freed = std::mem::take(&mut self.freed);
        for (owner, ino) in files.into_iter().filter(|(_, ino)| *ino != 0) {
            let map = self.quota_file(ino)?;
            if !quota::is_header(&self.quota_block(&map, 0)?, owner) {
                let at = self.volume.geometry.inode_offset(ino);
                return Err(corrupt("v2_disk_dqheader", at));
            }
            for (&(_, id), usage) in freed.iter().filter(|((of, _), _)| *of == owner) {
                let found = quota::subtract(id, *usage, |number| self.quota_block(&map, number))?;
                if let Some((number, bytes)) = found {
                    self.put_quota_block(&map, number, &bytes)?;
                }
            }
        }
        Ok(())
    }

    fn quota_file(&mut self, ino: u32) -> Result<Mapped, Error> {
        let (inode, offset) = self.any_inode(ino)?;
        if inode.i_flags.get() & EXT4_EXTENTS_FL == 0 {
            return Err(corrupt("quota file", offset));
        }
        let seed = self.seed(ino, &inode);
        let (block_size, blocks) = (self.volume.geometry.block_size, self.volume.geometry.blocks);
        Mapped::read(self.image, &inode, offset, seed, block_size, blocks)
    }

    /// Where a block of a quota file lies: a block of the filesystem, and the byte in it.
    fn quota_address(&self, map: &Mapped, number: u32) -> Result<(u64, usize), Error> {
        let block_size = u64::from(self.volume.geometry.block_size);
        let at = u64::from(number) * QUOTA_BLOCK as u64;
        let block = map
            .get(at / block_size)
            .ok_or_else(|| corrupt("quota file", at))?;
        Ok((block, (at % block_size) as usize))
    }

    fn quota_block(&mut self, map: &Mapped, number: u32) -> Result<Block, Error> {
        let (block, at) = self.quota_address(map, number)?;
        let mut bytes = [0; QUOTA_BLOCK];
        bytes.copy_from_slice(&self.block(block)?[at..at + QUOTA_BLOCK]);
        Ok(bytes)
    }

    fn put_quota_block(&mut self, map: &Mapped, number: u32, bytes: &Block) -> Result<(), Error> {
        let (block, at) = self.quota_address(map, number)?;
        let mut whole = self.block(block)?;
        whole[at..at + QUOTA_BLOCK].copy_from_slice(bytes);
        self.changed.insert(block, whole);
        Ok(())
    }
}
