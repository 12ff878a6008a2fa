//! Replaying the journal's log: reading committed transactions and writing their blocks
//! (`fs/jbd2/recovery.c`).

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::Error;
use crate::checksum::Checksum;
use crate::format::{
    CommitHeader, JBD2_COMMIT_BLOCK, JBD2_CRC32C_CHKSUM, JBD2_DESCRIPTOR_BLOCK,
    JBD2_FEATURE_INCOMPAT_64BIT, JBD2_FEATURE_INCOMPAT_CSUM_V3, JBD2_FEATURE_INCOMPAT_REVOKE,
    JBD2_FLAG_ESCAPE, JBD2_FLAG_LAST_TAG, JBD2_FLAG_SAME_UUID, JBD2_MAGIC_NUMBER,
    JBD2_REVOKE_BLOCK, JBD2_SUPERBLOCK_V2, JournalBlockTag, JournalBlockTag3, JournalHeader,
    JournalRevokeHeader, JournalSuperBlock,
};
use crate::info::{read_at, write_at};
use crate::mapped::Mapped;
use crate::volume::corrupt;

const KNOWN: u32 =
    JBD2_FEATURE_INCOMPAT_REVOKE | JBD2_FEATURE_INCOMPAT_64BIT | JBD2_FEATURE_INCOMPAT_CSUM_V3;
/// The checksum at the end of descriptor and revoke blocks (`struct jbd2_journal_block_tail`).
const TAIL: usize = 4;
const UUID: usize = 16;

/// A block in the log that is to be written elsewhere.
#[derive(Clone, Copy, Debug)]
struct Copied {
    /// Where it is in the log.
    log: u64,
    /// Its place in the filesystem.
    block: u64,
    sequence: u32,
    escaped: bool,
    checksum: u32,
}

/// The contents of the log.
#[derive(Debug, Default)]
struct Plan {
    copies: Vec<Copied>,
    /// Blocks that no transaction up to this one may write.
    revoked: HashMap<u64, u32>,
    /// The transaction after the last one that was committed.
    end: u32,
}

impl Plan {
    fn is_revoked(&self, copy: &Copied) -> bool {
        let revoked = self.revoked.get(&copy.block);
        revoked.is_some_and(|&by| !is_later(copy.sequence, by))
    }
}

/// Whether transaction `a` is after `b`: their numbers start again at 0 (`tid_gt`).
fn is_later(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// A journal, its superblock checked.
#[derive(Debug)]
pub(crate) struct Log {
    map: Mapped,
    superblock: JournalSuperBlock,
    block_size: u32,
    seed: Checksum,
    /// The transaction to begin with when the journal is empty: never the number of one that may
    /// still be in the log.
    next: u32,
}

impl Log {
    pub(crate) fn open(
        image: &mut (impl Read + Seek),
        map: Mapped,
        block_size: u32,
    ) -> Result<Self, Error> {
        let first = map.get(0).ok_or_else(|| corrupt("journal inode", 0))?;
        let at = first * u64::from(block_size);
        let mut superblock = JournalSuperBlock::new_zeroed();
        read_at(image, at, superblock.as_mut_bytes())?;
        let wrong = || corrupt("journal_superblock_s", at);
        if superblock.h_magic != JBD2_MAGIC_NUMBER
            || superblock.h_blocktype != JBD2_SUPERBLOCK_V2
            || superblock.s_blocksize != block_size
        {
            return Err(wrong());
        }
        let unknown = superblock.s_feature_incompat.get() & !KNOWN;
        if unknown != 0 || superblock.s_feature_ro_compat != 0 || superblock.s_feature_compat != 0 {
            return Err(Error::Features {
                features: format!(
                    "journal {:#x} {:#x} {:#x}",
                    superblock.s_feature_compat.get(),
                    unknown,
                    superblock.s_feature_ro_compat.get()
                ),
            });
        }
        let log = Self {
            seed: Checksum::START.add(&superblock.s_uuid),
            next: superblock.s_sequence.get().wrapping_add(1),
            map,
            superblock,
            block_size,
        };
        let superblock = &log.superblock;
        let sealed = !log.checked()
            || superblock.s_checksum_type == JBD2_CRC32C_CHKSUM
                && superblock.s_checksum == superblock_checksum(superblock);
        let len = superblock.s_maxlen.get();
        let (first, start) = (superblock.s_first.get(), superblock.s_start.get());
        let possible = u64::from(len) <= log.map.len()
            && (1..len).contains(&first)
            && (start == 0 || (first..len).contains(&start));
        match sealed && possible {
            true => Ok(log),
            false => Err(wrong()),
        }
    }

    /// Whether the filesystem met an error that its own superblock may not know of.
    pub(crate) fn failed(&self) -> bool {
        self.superblock.s_errno != 0
    }

    /// Writes all committed blocks.
    pub(crate) fn replay(&mut self, image: &mut (impl Read + Write + Seek)) -> Result<(), Error> {
        if self.superblock.s_start == 0 {
            return Ok(());
        }
        let plan = self.scan(image)?;
        self.check(image, &plan)?;
        let mut bytes = vec![0; self.block_size as usize];
        for copy in plan.copies.iter().filter(|copy| !plan.is_revoked(copy)) {
            read_at(image, self.offset(copy.log)?, &mut bytes)?;
            if copy.escaped {
                bytes[..4].copy_from_slice(&JBD2_MAGIC_NUMBER.to_be_bytes());
            }
            write_at(image, copy.block * u64::from(self.block_size), &bytes)?;
        }
        self.next = plan.end.wrapping_add(1);
        Ok(())
    }

    /// Empties the journal.
    pub(crate) fn empty(&mut self, image: &mut (impl Write + Seek)) -> Result<(), Error> {
        self.superblock.s_start = 0.into();
        self.superblock.s_errno = 0.into();
        self.superblock.s_sequence = self.next.into();
        if self.checked() {
            self.superblock.s_checksum = superblock_checksum(&self.superblock).into();
        }
        write_at(image, self.offset(0)?, self.superblock.as_bytes())
    }

    fn has(&self, feature: u32) -> bool {
        self.superblock.s_feature_incompat.get() & feature != 0
    }

    /// Whether the log's blocks have checksums.
    fn checked(&self) -> bool {
        self.has(JBD2_FEATURE_INCOMPAT_CSUM_V3)
    }

    /// The byte in the image at which a block of the log begins.
    fn offset(&self, log: u64) -> Result<u64, Error> {
        let block = self
            .map
            .get(log)
            .ok_or_else(|| corrupt("journal inode", 0))?;
        Ok(block * u64::from(self.block_size))
    }

    /// The block `count` blocks after `at`: after the last comes the first.
    fn advance(&self, at: u64, count: u64) -> u64 {
        let first = u64::from(self.superblock.s_first.get());
        let len = u64::from(self.superblock.s_maxlen.get());
        first + (at - first + count) % (len - first)
    }

    /// Reads all committed transactions.
    fn scan(&self, image: &mut (impl Read + Seek)) -> Result<Plan, Error> {
        let mut plan = Plan {
            end: self.superblock.s_sequence.get(),
            ..Plan::default()
        };
        // The transaction being read.
        let mut copies = Vec::new();
        let mut revoked = Vec::new();
        // A block of it with a wrong checksum: damaged, or left over from an earlier round of the
        // log.
        let mut damaged = None;
        let mut committed_at = 0;
        let mut at = u64::from(self.superblock.s_start.get());
        let mut left = u64::from(self.superblock.s_maxlen.get() - self.superblock.s_first.get());
        let mut bytes = vec![0; self.block_size as usize];
        while left > 0 {
            let offset = self.offset(at)?;
            read_at(image, offset, &mut bytes)?;
            let Ok((header, _)) = JournalHeader::read_from_prefix(&bytes) else {
                break;
            };
            if header.h_magic != JBD2_MAGIC_NUMBER || header.h_sequence != plan.end {
                break;
            }
            let mut used = 1;
            match header.h_blocktype.get() {
                JBD2_DESCRIPTOR_BLOCK => {
                    if !self.is_tail_right(&bytes) {
                        damaged.get_or_insert(offset);
                    }
                    for mut copy in self.tags(&bytes, plan.end) {
                        copy.log = self.advance(at, used);
                        copies.push(copy);
                        used += 1;
                        if used > left && damaged.is_none() {
                            return Err(corrupt("journal descriptor block", offset));
                        }
                    }
                }
                JBD2_REVOKE_BLOCK => {
                    if !self.is_tail_right(&bytes) {
                        damaged.get_or_insert(offset);
                    }
                    match self.revocations(&bytes) {
                        Some(blocks) => revoked.extend(blocks),
                        None => damaged = damaged.or(Some(offset)),
                    }
                }
                JBD2_COMMIT_BLOCK => {
                    let (time, right) = self.commit(&mut bytes);
                    if !right {
                        damaged.get_or_insert(offset);
                    }
                    match damaged {
                        Some(_) if time < committed_at => break,
                        Some(offset) => return Err(corrupt("journal transaction", offset)),
                        None => committed_at = time,
                    }
                    plan.copies.append(&mut copies);
                    for block in revoked.drain(..) {
                        plan.revoked.insert(block, plan.end);
                    }
                    plan.end = plan.end.wrapping_add(1);
                }
                _ => break,
            }
            at = self.advance(at, used);
            left = left.saturating_sub(used);
        }
        Ok(plan)
    }

    /// Fails unless all blocks have their committed contents and can be written.
    fn check(&self, image: &mut (impl Read + Seek), plan: &Plan) -> Result<(), Error> {
        let end = image
            .seek(SeekFrom::End(0))
            .map_err(|source| Error::Output { offset: 0, source })?
            / u64::from(self.block_size);
        let own = self.map.sorted();
        let is_own = |block| {
            let behind = own.partition_point(|run| run.start <= block);
            behind > 0 && block < own[behind - 1].end
        };
        let mut bytes = vec![0; self.block_size as usize];
        for copy in plan.copies.iter().filter(|copy| !plan.is_revoked(copy)) {
            let offset = self.offset(copy.log)?;
            if copy.block >= end || is_own(copy.block) {
                return Err(corrupt("journal_block_tag_s", offset));
            }
            read_at(image, offset, &mut bytes)?;
            let checksum = self.seed.add(&copy.sequence.to_be_bytes()).add(&bytes);
            if self.checked() && checksum.value() != copy.checksum {
                return Err(corrupt("journal block", offset));
            }
        }
        Ok(())
    }

    fn is_tail_right(&self, block: &[u8]) -> bool {
        let Some((covered, stored)) = block.split_last_chunk::<TAIL>() else {
            return false;
        };
        let sum = self.seed.add(covered).add(&[0; TAIL]).value();
        !self.checked() || sum == u32::from_be_bytes(*stored)
    }

    /// The tags of a descriptor block, without the positions of their blocks in the log.
    fn tags(&self, block: &[u8], sequence: u32) -> Vec<Copied> {
        let tail = if self.checked() { TAIL } else { 0 };
        let mut rest = &block[size_of::<JournalHeader>()..block.len() - tail];
        let mut copies = Vec::new();
        while let Some((mut copy, flags, behind)) = self.tag(rest) {
            copy.sequence = sequence;
            copies.push(copy);
            let uuid = if flags & JBD2_FLAG_SAME_UUID == 0 {
                UUID
            } else {
                0
            };
            rest = behind.get(uuid..).unwrap_or(&[]);
            if flags & JBD2_FLAG_LAST_TAG != 0 {
                break;
            }
        }
        copies
    }

    fn tag<'a>(&self, bytes: &'a [u8]) -> Option<(Copied, u32, &'a [u8])> {
        let wide = self.has(JBD2_FEATURE_INCOMPAT_64BIT);
        let high = |high: u32| if wide { u64::from(high) << 32 } else { 0 };
        let (block, flags, checksum, rest) = if self.checked() {
            let (tag, rest) = JournalBlockTag3::read_from_prefix(bytes).ok()?;
            let block = u64::from(tag.t_blocknr.get()) | high(tag.t_blocknr_high.get());
            (block, tag.t_flags.get(), tag.t_checksum.get(), rest)
        } else {
            let len = size_of::<JournalBlockTag>() - if wide { 0 } else { 4 };
            let (bytes, rest) = bytes.split_at_checked(len)?;
            let mut tag = JournalBlockTag::new_zeroed();
            tag.as_mut_bytes()[..len].copy_from_slice(bytes);
            let block = u64::from(tag.t_blocknr.get()) | high(tag.t_blocknr_high.get());
            (block, tag.t_flags.get().into(), 0, rest)
        };
        let copy = Copied {
            log: 0,
            block,
            sequence: 0,
            escaped: flags & JBD2_FLAG_ESCAPE != 0,
            checksum,
        };
        Some((copy, flags, rest))
    }

    /// A revoke block's block numbers, or `None` where their count is impossible.
    fn revocations(&self, block: &[u8]) -> Option<Vec<u64>> {
        let tail = if self.checked() { TAIL } else { 0 };
        let (header, _) = JournalRevokeHeader::read_from_prefix(block).ok()?;
        let end = header.r_count.get() as usize;
        let numbers = block[..block.len() - tail].get(size_of::<JournalRevokeHeader>()..end)?;
        Some(match self.has(JBD2_FEATURE_INCOMPAT_64BIT) {
            true => {
                let (numbers, _) = numbers.as_chunks();
                numbers.iter().map(|n| u64::from_be_bytes(*n)).collect()
            }
            false => {
                let (numbers, _) = numbers.as_chunks();
                let wide = |n: &[u8; 4]| u64::from(u32::from_be_bytes(*n));
                numbers.iter().map(wide).collect()
            }
        })
    }

    /// When a transaction was committed, in seconds, and whether the commit block's checksum is
    /// right.
    fn commit(&self, block: &mut [u8]) -> (u64, bool) {
        let Ok((header, _)) = CommitHeader::mut_from_prefix(block) else {
            return (0, false);
        };
        let time = header.h_commit_sec.get();
        let stored = std::mem::take(&mut header.h_chksum[0]);
        let right = !self.checked() || self.seed.add(block).value() == stored.get();
        (time, right)
    }
}

fn superblock_checksum(superblock: &JournalSuperBlock) -> u32 {
    let mut unsigned = superblock.clone();
    unsigned.s_checksum = 0.into();
    Checksum::START.add(unsigned.as_bytes()).value()
}
