//! Quota files: the usage of users, groups and projects (`fs/quota/quota_v2.c`, `quota_tree.c`; the
//! format is called vfsv1).

use std::collections::BTreeMap;

use zerocopy::{FromBytes, IntoBytes};

use crate::format::{QUOTA_BLOCK, QUOTA_MAGICS, QuotaBlockHeader, QuotaEntry, QuotaHeader};

/// `vfsv1` has version 1 of the format: counts of 64 bits.
const VERSION: u32 = 1;
/// How long a soft limit may be exceeded, in seconds (`MAX_DQ_TIME`, `MAX_IQ_TIME`): a week.
const GRACE: u32 = 7 * 24 * 60 * 60;
/// The tree's first block; the header is before it (`QT_TREEOFF`).
const ROOT: u32 = 1;
/// Levels of blocks of pointers: one for each byte of an id.
const DEPTH: u32 = 4;
/// Entries of a block.
const ENTRIES: usize = (QUOTA_BLOCK - size_of::<QuotaBlockHeader>()) / size_of::<QuotaEntry>();

/// The kind of owner that a quota file accounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    User,
    Group,
    Project,
}

/// The usage of one owner.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Bytes.
    pub(crate) space: u64,
    pub(crate) inodes: u64,
}

/// A quota file that sets no limits.
pub(crate) fn encode(owner: Owner, usage: &BTreeMap<u32, Usage>) -> Vec<u8> {
    let mut file = File {
        blocks: vec![[0; QUOTA_BLOCK]; ROOT as usize + 1],
        nodes: BTreeMap::new(),
    };
    let users: Vec<_> = usage.iter().collect();
    let mut free = 0;
    for users in users.chunks(ENTRIES) {
        let block = file.allocate();
        free = if users.len() < ENTRIES { block } else { 0 };
        file.fill(block, users);
        for (id, _) in users {
            file.link_block(**id, block);
        }
    }
    let header = QuotaHeader {
        dqh_magic: QUOTA_MAGICS[owner as usize].into(),
        dqh_version: VERSION.into(),
        dqi_bgrace: GRACE.into(),
        dqi_igrace: GRACE.into(),
        dqi_flags: 0.into(),
        dqi_blocks: (file.blocks.len() as u32).into(),
        dqi_free_blk: 0.into(),
        dqi_free_entry: free.into(),
    };
    file.blocks[0][..size_of::<QuotaHeader>()].copy_from_slice(header.as_bytes());
    file.blocks.concat()
}

/// One of the blocks that a quota file is made of.
pub(crate) type Block = [u8; QUOTA_BLOCK];

/// Whether this is the first block of the file of such owners.
pub(crate) fn is_header(block: &Block, owner: Owner) -> bool {
    QuotaHeader::read_from_prefix(block).is_ok_and(|(header, _)| {
        header.dqh_magic.get() == QUOTA_MAGICS[owner as usize]
            && header.dqh_version.get() == VERSION
    })
}

/// Subtracts `usage` from the usage of `id`, and returns the number and the new contents of the
/// block that changes; `None` if the file has no entry for `id`. `read` returns the file's blocks.
pub(crate) fn subtract<E>(
    id: u32,
    usage: Usage,
    mut read: impl FnMut(u32) -> Result<Block, E>,
) -> Result<Option<(u32, Block)>, E> {
    let mut number = ROOT;
    for level in (0..DEPTH).rev() {
        let slot = (id >> (8 * level) & 0xff) as usize;
        number = u32::from_le_bytes(read(number)?.as_chunks().0[slot]);
        if number == 0 {
            return Ok(None);
        }
    }
    let mut block = read(number)?;
    let entries = block[size_of::<QuotaBlockHeader>()..].chunks_exact_mut(size_of::<QuotaEntry>());
    for bytes in entries {
        // An entry of zeros is not in use.
        let used = bytes.iter().any(|byte| *byte != 0);
        let Some(mut entry) = QuotaEntry::read_from_bytes(bytes)
            .ok()
            .filter(|entry| used && entry.dqb_id.get() == id)
        else {
            continue;
        };
        // Usage does not become negative, as in the kernel (`dquot_decr_space`).
        entry.dqb_curspace = entry.dqb_curspace.get().saturating_sub(usage.space).into();
        entry.dqb_curinodes = entry
            .dqb_curinodes
            .get()
            .saturating_sub(usage.inodes)
            .into();
        if entry.as_bytes().iter().all(|byte| *byte == 0) {
            // It stays in use (`v2r1_mem2diskdqb`).
            entry.dqb_itime = 1.into();
        }
        bytes.copy_from_slice(entry.as_bytes());
        return Ok(Some((number, block)));
    }
    Ok(None)
}

struct File {
    blocks: Vec<Block>,
    /// The blocks of pointers below the root, by level and the bytes of the ids that lead to them.
    nodes: BTreeMap<(u32, u32), u32>,
}

impl File {
    fn allocate(&mut self) -> u32 {
        self.blocks.push([0; QUOTA_BLOCK]);
        self.blocks.len() as u32 - 1
    }

    fn fill(&mut self, block: u32, users: &[(&u32, &Usage)]) {
        let header = QuotaBlockHeader {
            dqdh_next_free: 0.into(),
            dqdh_prev_free: 0.into(),
            dqdh_entries: (users.len() as u16).into(),
            dqdh_pad1: 0.into(),
            dqdh_pad2: 0.into(),
        };
        let mut bytes = header.as_bytes().to_vec();
        for (id, usage) in users {
            let entry = QuotaEntry {
                dqb_id: (**id).into(),
                dqb_pad: 0.into(),
                dqb_ihardlimit: 0.into(),
                dqb_isoftlimit: 0.into(),
                dqb_curinodes: usage.inodes.into(),
                dqb_bhardlimit: 0.into(),
                dqb_bsoftlimit: 0.into(),
                dqb_curspace: usage.space.into(),
                dqb_btime: 0.into(),
                dqb_itime: 0.into(),
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        self.blocks[block as usize][..bytes.len()].copy_from_slice(&bytes);
    }

    /// Adds the path from `id` to `block` to the tree.
    fn link_block(&mut self, id: u32, block: u32) {
        let mut node = ROOT;
        for level in 1..=DEPTH {
            // The bytes of the id above this level's lead to the node.
            let path = id >> (8 * (DEPTH - level));
            let target = if level == DEPTH {
                block
            } else {
                match self.nodes.get(&(level, path)) {
                    Some(&node) => node,
                    None => {
                        let node = self.allocate();
                        self.nodes.insert((level, path), node);
                        node
                    }
                }
            };
            let slot = (path & 0xff) as usize * size_of::<u32>();
            let pointer = &mut self.blocks[node as usize][slot..slot + size_of::<u32>()];
            pointer.copy_from_slice(&target.to_le_bytes());
            node = target;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `usage` from `id` in a file of blocks.
    fn take(file: &mut [Block], id: u32, usage: Usage) -> bool {
        let read = |number: u32| file.get(number as usize).copied().ok_or(number);
        let Some((number, block)) = subtract(id, usage, read).unwrap() else {
            return false;
        };
        file[number as usize] = block;
        true
    }

    #[test]
    fn freed_space_is_subtracted_from_its_owner_alone() {
        let ids = (0..40).chain([255, 256, 70_000, u32::MAX]);
        let all: BTreeMap<u32, Usage> = ids
            .map(|id| {
                (
                    id,
                    Usage {
                        space: 8192 + u64::from(id),
                        inodes: 5,
                    },
                )
            })
            .collect();
        let mut file = encode(Owner::Group, &all).as_chunks().0.to_vec();
        assert!(is_header(&file[0], Owner::Group) && !is_header(&file[0], Owner::User));
        let freed = Usage {
            space: 4096,
            inodes: 2,
        };
        for id in [0, 14, 256, u32::MAX] {
            assert!(take(&mut file, id, freed));
        }
        assert!(!take(&mut file, 40, freed) && !take(&mut file, 70_001, freed));
        let expected: BTreeMap<u32, Usage> = all
            .into_iter()
            .map(|(id, usage)| match id {
                0 | 14 | 256 | u32::MAX => {
                    let space = usage.space - freed.space;
                    (id, Usage { space, inodes: 3 })
                }
                _ => (id, usage),
            })
            .collect();
        assert_eq!(file.concat(), encode(Owner::Group, &expected));
    }

    #[test]
    fn quota_entry_stays_when_its_owner_owns_nothing() {
        let usage = Usage {
            space: 4096,
            inodes: 1,
        };
        let mut file = encode(Owner::User, &BTreeMap::from([(0, usage)]))
            .as_chunks()
            .0
            .to_vec();
        assert!(take(
            &mut file,
            0,
            Usage {
                space: 5000,
                inodes: 2
            }
        ));
        assert!(take(&mut file, 0, Usage::default()));
    }
}
