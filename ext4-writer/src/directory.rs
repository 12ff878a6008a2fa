//! Directory blocks: linear where one block is enough, else a hash tree.

use zerocopy::IntoBytes;

use crate::Error;
use crate::checksum::Checksum;
use crate::format::{
    DX_HASH_HALF_MD4, DirEntry, DirEntryTail, DxCountLimit, DxEntry, DxRootInfo, DxTail,
    EXT4_FT_DIR_CSUM,
};
use crate::hash::half_md4;

/// `EXT4_FT_DIR`.
pub(crate) const FT_DIR: u8 = 2;

/// The bytes of `i_block`.
const I_BLOCK: usize = 60;
const TAIL: usize = size_of::<DirEntryTail>();
/// Index levels the kernel follows, the root included (`ext4_dir_htree_level`).
const MAX_LEVELS: usize = 2;
/// As many with the large_dir feature.
const MAX_LEVELS_LARGE: usize = 3;

/// A directory entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) ino: u32,
    pub(crate) file_type: u8,
}

impl Entry<'_> {
    /// The bytes it needs (`ext4_dir_rec_len`).
    fn len(&self) -> usize {
        (size_of::<DirEntry>() + self.name.len()).next_multiple_of(4)
    }
}

/// The parameters of all blocks of a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    pub(crate) ino: u32,
    pub(crate) parent: u32,
    pub(crate) block_size: usize,
    pub(crate) hash_seed: [u8; 16],
    /// Whether names are hashed as signed chars.
    pub(crate) signed_hash: bool,
    /// Whether there is the large_dir feature.
    pub(crate) large: bool,
    /// The directory inode's checksum seed.
    pub(crate) checksum: Checksum,
}

/// A directory's blocks.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub(crate) bytes: Vec<u8>,
    /// Whether it is a hash tree (`EXT4_INDEX_FL`).
    pub(crate) indexed: bool,
}

impl Encoder {
    /// Encodes a directory with these entries besides `.` and `..`.
    pub(crate) fn encode(&self, entries: &[Entry<'_>]) -> Result<Directory, Error> {
        let dots = [self.dot(b"."), self.dot(b"..")];
        let all = dots.iter().chain(entries);
        if all.clone().map(Entry::len).sum::<usize>() <= self.block_size - TAIL {
            let mut bytes = Vec::with_capacity(self.block_size);
            self.leaf(&mut bytes, all);
            return Ok(Directory {
                bytes,
                indexed: false,
            });
        }
        self.tree(entries)
    }

    /// Encodes a directory that lies in its inode, if it fits in `room` bytes: the parent's number,
    /// entries in the rest of `i_block`, and entries after it; without `.` and `..`, and without a
    /// checksum.
    pub(crate) fn encode_inline(&self, entries: &[Entry<'_>], room: usize) -> Option<Vec<u8>> {
        let mut bytes = self.parent.to_le_bytes().to_vec();
        let mut left = I_BLOCK.checked_sub(bytes.len())?;
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for entry in entries {
            match left.checked_sub(entry.len()) {
                Some(rest) => {
                    left = rest;
                    near.push(entry);
                }
                None => far.push(entry),
            }
        }
        let behind: usize = far.iter().map(|entry| entry.len()).sum();
        if I_BLOCK + behind > room {
            return None;
        }
        let unused = Entry {
            name: b"",
            ino: 0,
            file_type: 0,
        };
        if near.is_empty() {
            near.push(&unused);
        }
        for (entries, end) in [(near, I_BLOCK), (far, I_BLOCK + behind)] {
            let mut entries = entries.into_iter().peekable();
            while let Some(entry) = entries.next() {
                let len = match entries.peek() {
                    Some(_) => entry.len(),
                    None => end - bytes.len(),
                };
                push(&mut bytes, entry, len);
            }
        }
        Some(bytes)
    }

    fn dot(&self, name: &'static [u8]) -> Entry<'static> {
        Entry {
            name,
            ino: if name.len() == 1 {
                self.ino
            } else {
                self.parent
            },
            file_type: FT_DIR,
        }
    }

    /// Appends a block of entries, the last of which takes the rest of the block.
    fn leaf<'a>(&self, out: &mut Vec<u8>, entries: impl Iterator<Item = &'a Entry<'a>>) {
        let start = out.len();
        let end = start + self.block_size - TAIL;
        let mut entries = entries.peekable();
        while let Some(entry) = entries.next() {
            let len = match entries.peek() {
                Some(_) => entry.len(),
                None => end - out.len(),
            };
            push(out, entry, len);
        }
        let tail = DirEntryTail {
            det_reserved_zero1: 0.into(),
            det_rec_len: (TAIL as u16).into(),
            det_reserved_zero2: 0,
            det_reserved_ft: EXT4_FT_DIR_CSUM,
            det_checksum: self.checksum.add(&out[start..end]).value().into(),
        };
        out.extend_from_slice(tail.as_bytes());
    }

    fn tree(&self, entries: &[Entry<'_>]) -> Result<Directory, Error> {
        let mut hashed: Vec<_> = entries
            .iter()
            .map(|entry| {
                let hash = half_md4(entry.name, self.hash_seed, self.signed_hash);
                (hash, entry)
            })
            .collect();
        hashed.sort_unstable_by_key(|(hash, entry)| (*hash, entry.name));

        // Leaves as ranges of `hashed`, each with the hash its index entry has.
        let mut leaves: Vec<(u32, std::ops::Range<usize>)> = Vec::new();
        let mut room = 0;
        for (i, (hash, entry)) in hashed.iter().enumerate() {
            match leaves.last_mut() {
                Some((_, leaf)) if entry.len() <= room => leaf.end = i + 1,
                _ => {
                    let continued = i > 0 && hashed[i - 1].0.major == hash.major;
                    leaves.push((hash.major | u32::from(continued), i..i + 1));
                    room = self.block_size - TAIL;
                }
            }
            room -= entry.len();
        }

        let root_limit = self.index_limit(32);
        let node_limit = self.index_limit(8);
        // The number of blocks of each level, from the leaves up to the level below the root.
        let mut counts = vec![leaves.len()];
        while let Some(&count) = counts.last()
            && count > root_limit
        {
            counts.push(count.div_ceil(node_limit));
        }
        let most = if self.large {
            MAX_LEVELS_LARGE
        } else {
            MAX_LEVELS
        };
        if counts.len() > most {
            return Err(Error::DirectorySize {
                entries: entries.len(),
            });
        }

        // Block 0 is the root; the index nodes come next, level by level, then the leaves.
        let mut hashes: Vec<u32> = leaves.iter().map(|(hash, _)| *hash).collect();
        let mut behind = 1 + counts.iter().sum::<usize>();
        // The index of each level, from the leaves' up.
        let mut indexes = Vec::new();
        for count in &counts {
            behind -= count;
            let index: Vec<DxEntry> = (behind..)
                .zip(&hashes)
                .map(|(block, hash)| index_entry(*hash, block))
                .collect();
            hashes = hashes.iter().copied().step_by(node_limit).collect();
            indexes.push(index);
        }
        let blocks = 1 + counts.iter().sum::<usize>();
        let mut bytes = Vec::with_capacity(blocks * self.block_size);
        for (level, index) in indexes.iter().rev().enumerate() {
            if level == 0 {
                self.root(&mut bytes, counts.len() - 1, root_limit, index);
                continue;
            }
            for chunk in index.chunks(node_limit) {
                self.node(&mut bytes, node_limit, chunk);
            }
        }
        for (_, leaf) in leaves {
            self.leaf(&mut bytes, hashed[leaf].iter().map(|(_, entry)| *entry));
        }
        Ok(Directory {
            bytes,
            indexed: true,
        })
    }

    /// The index entries of a block, with `before` bytes before them and the checksum after them.
    fn index_limit(&self, before: usize) -> usize {
        (self.block_size - before - size_of::<DxTail>()) / size_of::<DxEntry>()
    }

    fn root(&self, out: &mut Vec<u8>, indirect_levels: usize, limit: usize, index: &[DxEntry]) {
        let start = out.len();
        push(out, &self.dot(b"."), 12);
        let at = out.len();
        push(out, &self.dot(b".."), self.block_size - 12);
        out.truncate(at + 12);
        let info = DxRootInfo {
            reserved_zero: 0.into(),
            hash_version: DX_HASH_HALF_MD4,
            info_length: size_of::<DxRootInfo>() as u8,
            indirect_levels: indirect_levels as u8,
            unused_flags: 0,
        };
        out.extend_from_slice(info.as_bytes());
        self.index(out, start, limit, index);
    }

    fn node(&self, out: &mut Vec<u8>, limit: usize, index: &[DxEntry]) {
        let start = out.len();
        let fake = DirEntry {
            inode: 0.into(),
            rec_len: (self.block_size as u16).into(),
            name_len: 0,
            file_type: 0,
        };
        out.extend_from_slice(fake.as_bytes());
        self.index(out, start, limit, index);
    }

    /// Completes the block that began at `start` with its index and its checksum.
    fn index(&self, out: &mut Vec<u8>, start: usize, limit: usize, index: &[DxEntry]) {
        let entries = out.len();
        let count_limit = DxCountLimit {
            limit: (limit as u16).into(),
            count: (index.len() as u16).into(),
        };
        out.extend_from_slice(index.as_bytes());
        // The first entry needs no hash: everything below the second one's is in it.
        out[entries..entries + 4].copy_from_slice(count_limit.as_bytes());
        let mut tail = DxTail {
            dt_reserved: 0.into(),
            dt_checksum: 0.into(),
        };
        let checksum = self.checksum.add(&out[start..]).add(tail.as_bytes());
        tail.dt_checksum = checksum.value().into();
        out.resize(entries + limit * size_of::<DxEntry>(), 0);
        out.extend_from_slice(tail.as_bytes());
        out.resize(start + self.block_size, 0);
    }
}

fn index_entry(hash: u32, block: usize) -> DxEntry {
    DxEntry {
        hash: hash.into(),
        block: (block as u32).into(),
    }
}

/// Appends an entry that takes `len` bytes.
fn push(out: &mut Vec<u8>, entry: &Entry<'_>, len: usize) {
    let start = out.len();
    let fixed = DirEntry {
        inode: entry.ino.into(),
        rec_len: (len as u16).into(),
        name_len: entry.name.len() as u8,
        file_type: entry.file_type,
    };
    out.extend_from_slice(fixed.as_bytes());
    out.extend_from_slice(entry.name);
    out.resize(start + len, 0);
}
