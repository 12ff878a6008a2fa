//! A compact representation of the names and inodes of the image being built.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use hashbrown::HashTable;

use crate::format::{NAME_LEN, S_IFDIR, S_IFMT};
use crate::{ChunkSize, Error, Timestamp};

/// The root's index.
pub(crate) const ROOT: u32 = 0;
/// The index of no name.
const NONE: u32 = u32::MAX;

/// An inode, in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inode {
    /// Bytes; of a directory, known once its names are.
    pub(crate) size: u64,
    /// A regular file's first block on its device, or the first of its chunks or its tail in the
    /// builder's lists; a symbolic link's target in the arena; a device's number; a directory's
    /// first block after the inodes.
    pub(crate) payload: u64,
    secs: i64,
    nanos: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    /// Index of its set of xattrs.
    pub(crate) xattrs: u32,
    /// Its first name.
    name: u32,
    /// Permission bits and type.
    pub(crate) mode: u16,
    /// Place in the device table from 1; 0 for the image itself.
    pub(crate) device: u16,
    pub(crate) flags: Flags,
}

/// Flags of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    /// A directory that exists because something was added beneath it.
    pub(crate) implied: bool,
    /// In its compact form.
    pub(crate) compact: bool,
    /// Its last, partial block follows the inode.
    pub(crate) inline: bool,
    /// Its contents are compressed; until the end, they were given to the threads that compress.
    pub(crate) compressed: bool,
    /// Its contents are stored later; its payload is their number.
    pub(crate) later: bool,
    /// One more than the chunk size's bits; 0 for contents in one piece.
    chunk_bits: u8,
}

impl Inode {
    pub(crate) fn new(mode: u16) -> Self {
        Self {
            size: 0,
            payload: 0,
            secs: 0,
            nanos: 0,
            uid: 0,
            gid: 0,
            nlink: 1,
            xattrs: 0,
            name: NONE,
            mode,
            device: 0,
            flags: Flags::default(),
        }
    }

    pub(crate) fn kind(&self) -> u16 {
        self.mode & S_IFMT
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == S_IFDIR
    }

    /// The size of the chunks that its contents lie in.
    pub(crate) fn chunk_size(&self) -> Option<ChunkSize> {
        let bits = self.flags.chunk_bits.checked_sub(1)?;
        ChunkSize::from_block_bits(bits).ok()
    }

    pub(crate) fn set_chunk_size(&mut self, size: ChunkSize) {
        self.flags.chunk_bits = size.block_bits() + 1;
    }

    pub(crate) fn mtime(&self) -> Timestamp {
        Timestamp {
            secs: self.secs,
            nanos: self.nanos,
        }
    }

    pub(crate) fn set_mtime(&mut self, mtime: Timestamp) {
        (self.secs, self.nanos) = (mtime.secs, mtime.nanos);
    }
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
struct Name {
    parent: u32,
    inode: u32,
    /// Offset in the arena, and length in the low eight bits.
    bytes: u64,
}

/// Inodes by index and names by (directory, name).
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) inodes: Vec<Inode>,
    names: Vec<Name>,
    arena: Vec<u8>,
    index: HashTable<u32>,
    /// Whether names were removed.
    removed: bool,
    // Seeded at random, because names may be hostile. Nothing depends on the order of this table.
    hasher: RandomState,
}

impl Tree {
    /// A tree that holds its root.
    pub(crate) fn new(root: Inode) -> Self {
        Self {
            inodes: vec![Inode { nlink: 2, ..root }],
            names: Vec::new(),
            arena: Vec::new(),
            index: HashTable::new(),
            removed: false,
            hasher: RandomState::new(),
        }
    }

    /// The inode that `directory` calls `name`.
    pub(crate) fn find(&self, directory: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((directory, name));
        let found = self
            .index
            .find(hash, |&i| self.is_named(i, directory, name))?;
        self.names.get(*found as usize).map(|name| name.inode)
    }

    /// Checks that `name` can be added to `parent`, which does not have it.
    pub(crate) fn check(&self, parent: u32, name: &[u8]) -> Result<(), Error> {
        self.check_new(parent, name)?;
        match self.find(parent, name) {
            Some(_) => Err(Error::AlreadyExists {
                path: self.path_of(parent, name).into(),
            }),
            None => Ok(()),
        }
    }

    /// Checks that `name` can be added to `parent`, or replaced there.
    pub(crate) fn check_new(&self, parent: u32, name: &[u8]) -> Result<(), Error> {
        let directory = self
            .inodes
            .get(parent as usize)
            .filter(|directory| directory.nlink > 0)
            .ok_or(Error::ForeignNode)?;
        if !directory.is_dir() {
            return Err(Error::NotADirectory {
                path: self.path(parent).into(),
            });
        }
        let bad = matches!(name, b"" | b"." | b"..") || name.len() > NAME_LEN;
        if bad || name.iter().any(|&byte| byte == 0 || byte == b'/') {
            return Err(Error::InvalidName {
                directory: self.path(parent).into(),
                name: name.into(),
            });
        }
        if self.names.len().max(self.inodes.len()) >= NONE as usize {
            return Err(Error::TooManyNodes);
        }
        Ok(())
    }

    /// Adds an inode under a name that was [checked](Self::check).
    pub(crate) fn add(&mut self, parent: u32, name: &[u8], inode: Inode) -> u32 {
        let index = self.inodes.len() as u32;
        let dir = inode.is_dir();
        self.inodes.push(Inode {
            nlink: if dir { 2 } else { 0 },
            ..inode
        });
        if dir {
            self.inodes[parent as usize].nlink += 1;
        }
        self.link(parent, name, index);
        index
    }

    /// Adds an inode without a name, and returns its index.
    pub(crate) fn add_nameless(&mut self, inode: Inode) -> Result<u32, Error> {
        if self.inodes.len() >= NONE as usize {
            return Err(Error::TooManyNodes);
        }
        self.inodes.push(inode);
        Ok(self.inodes.len() as u32 - 1)
    }

    /// Gives an inode a name that was [checked](Self::check).
    pub(crate) fn link(&mut self, parent: u32, name: &[u8], inode: u32) {
        let bytes = (self.intern(name) << 8) | name.len() as u64;
        let index = self.names.len() as u32;
        self.names.push(Name {
            parent,
            inode,
            bytes,
        });
        let target = &mut self.inodes[inode as usize];
        if target.name == NONE {
            target.name = index;
        }
        if !target.is_dir() {
            target.nlink += 1;
        }
        let hash = self.hasher.hash_one((parent, name));
        let (names, arena, hasher) = (&self.names, &self.arena, &self.hasher);
        self.index.insert_unique(hash, index, |&i| {
            let name = names[i as usize];
            hasher.hash_one((name.parent, slice(arena, name.bytes)))
        });
    }

    /// Removes a name, and all that is beneath it where it is a directory. Returns `None` where
    /// there is no such name.
    pub(crate) fn remove(&mut self, parent: u32, name: &[u8]) -> Option<()> {
        let hash = self.hasher.hash_one((parent, name));
        let (names, arena) = (&self.names, &self.arena);
        let named = |&i: &u32| {
            let found = names[i as usize];
            found.parent == parent && slice(arena, found.bytes) == name
        };
        let (first, _) = self.index.find_entry(hash, named).ok()?.remove();
        self.removed = true;
        let mut directories = HashSet::new();
        if let Some(directory) = self.unlink(first) {
            directories.insert(directory);
            // A directory has its name before anything in it has one.
            for i in first + 1..self.names.len() as u32 {
                let Name { parent, inode, .. } = self.names[i as usize];
                if inode == NONE || !directories.contains(&parent) {
                    continue;
                }
                let hash = self
                    .hasher
                    .hash_one((parent, slice(&self.arena, self.names[i as usize].bytes)));
                if let Ok(entry) = self.index.find_entry(hash, |&known| known == i) {
                    entry.remove();
                }
                directories.extend(self.unlink(i));
            }
        }
        Some(())
    }

    /// Removes the inode from a name that is not indexed any more. Returns the inode if it is a
    /// directory.
    fn unlink(&mut self, index: u32) -> Option<u32> {
        let name = &mut self.names[index as usize];
        let (parent, inode) = (name.parent, std::mem::replace(&mut name.inode, NONE));
        let target = &mut self.inodes[inode as usize];
        if target.is_dir() {
            target.nlink = 0;
            self.inodes[parent as usize].nlink =
                self.inodes[parent as usize].nlink.saturating_sub(1);
            return Some(inode);
        }
        target.nlink -= 1;
        if target.name == index && target.nlink > 0 {
            let other = self.names.iter().position(|name| name.inode == inode);
            target.name = other.map_or(NONE, |other| other as u32);
        }
        None
    }

    /// Drops the inodes that have lost all their names. Indexes change.
    pub(crate) fn drop_removed(&mut self) {
        if !self.removed {
            return;
        }
        self.names.retain(|name| name.inode != NONE);
        let mut moved = vec![NONE; self.inodes.len()];
        let mut live = 0;
        for (from, inode) in self.inodes.iter_mut().enumerate() {
            if inode.nlink > 0 {
                moved[from] = live;
                live += 1;
            }
            inode.name = NONE;
        }
        self.inodes.retain(|inode| inode.nlink > 0);
        for (index, name) in (0..).zip(&mut self.names) {
            name.parent = moved[name.parent as usize];
            name.inode = moved[name.inode as usize];
            let first = &mut self.inodes[name.inode as usize].name;
            if *first == NONE {
                *first = index;
            }
        }
        self.index = HashTable::new();
        self.removed = false;
    }

    /// Keeps bytes for the lifetime of the tree, and returns their offset.
    pub(crate) fn intern(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.arena.len() as u64;
        self.arena.extend_from_slice(bytes);
        offset
    }

    /// Bytes that were interned.
    pub(crate) fn bytes(&self, offset: u64, length: u64) -> &[u8] {
        &self.arena[offset as usize..(offset + length) as usize]
    }

    /// The path of an inode's first name, with a slash at its front.
    pub(crate) fn path(&self, inode: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = inode;
        while let Some(name) = self.first_name(at) {
            names.push(slice(&self.arena, name.bytes));
            at = name.parent;
        }
        if names.is_empty() {
            return b"/".to_vec();
        }
        names.iter().rev().fold(Vec::new(), |mut path, name| {
            path.push(b'/');
            path.extend_from_slice(name);
            path
        })
    }

    /// The path of `name` in `directory`.
    pub(crate) fn path_of(&self, directory: u32, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(directory);
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    fn first_name(&self, inode: u32) -> Option<Name> {
        let name = self.inodes.get(inode as usize)?.name;
        self.names.get(name as usize).copied()
    }

    fn is_named(&self, index: u32, parent: u32, name: &[u8]) -> bool {
        let found = self.names[index as usize];
        found.parent == parent && slice(&self.arena, found.bytes) == name
    }

    /// Drops the index of names. Nothing can be added afterwards.
    pub(crate) fn close(&mut self) {
        self.index = HashTable::new();
    }

    /// Sorts every directory's names.
    pub(crate) fn sort(self) -> SortedTree {
        // Counting sort by directory, then each directory's names by their bytes.
        let mut first = vec![0_u32; self.inodes.len() + 1];
        let live = |name: &&Name| name.inode != NONE;
        for name in self.names.iter().filter(live) {
            first[name.parent as usize + 1] += 1;
        }
        for i in 1..first.len() {
            first[i] += first[i - 1];
        }
        let mut sorted = vec![0_u32; first.last().map_or(0, |&names| names as usize)];
        let mut next = first.clone();
        for (i, name) in self.names.iter().enumerate() {
            if name.inode == NONE {
                continue;
            }
            let slot = &mut next[name.parent as usize];
            sorted[*slot as usize] = i as u32;
            *slot += 1;
        }
        drop(next);
        let key = |&i: &u32| slice(&self.arena, self.names[i as usize].bytes);
        for bounds in first.windows(2) {
            sorted[bounds[0] as usize..bounds[1] as usize]
                .sort_unstable_by(|a, b| key(a).cmp(key(b)));
        }
        SortedTree {
            tree: self,
            sorted,
            first,
        }
    }
}

fn slice(arena: &[u8], bytes: u64) -> &[u8] {
    let start = (bytes >> 8) as usize;
    &arena[start..start + (bytes & 0xff) as usize]
}

/// A tree with its directories in order.
#[derive(Debug)]
pub(crate) struct SortedTree {
    tree: Tree,
    /// Names, those of one directory together and in order of their bytes.
    sorted: Vec<u32>,
    /// Where in `sorted` each inode's names begin.
    first: Vec<u32>,
}

impl SortedTree {
    /// Returns the tree for further additions.
    pub(crate) fn into_tree(self) -> Tree {
        self.tree
    }

    pub(crate) fn inodes(&self) -> &[Inode] {
        &self.tree.inodes
    }

    pub(crate) fn inode(&self, index: u32) -> &Inode {
        &self.tree.inodes[index as usize]
    }

    pub(crate) fn inode_mut(&mut self, index: u32) -> &mut Inode {
        &mut self.tree.inodes[index as usize]
    }

    /// The inodes of a directory's entries, by name.
    pub(crate) fn children(
        &self,
        directory: u32,
    ) -> impl ExactSizeIterator<Item = u32> + DoubleEndedIterator {
        self.slots(directory)
            .iter()
            .map(|&i| self.tree.names[i as usize].inode)
    }

    /// A directory's entries in the order of the disk: by the bytes of their names, `.` and `..` in
    /// their places.
    pub(crate) fn entries(&self, directory: u32) -> impl Iterator<Item = (&[u8], u32)> {
        let slots = self.slots(directory);
        let entry = |&i: &u32| {
            let name = self.tree.names[i as usize];
            (slice(&self.tree.arena, name.bytes), name.inode)
        };
        let before = |name: &'static [u8]| slots.partition_point(move |i| entry(i).0 < name);
        let (dot, dot_dot) = (before(b"."), before(b".."));
        let parent = self
            .tree
            .first_name(directory)
            .map_or(directory, |name| name.parent);
        slots[..dot]
            .iter()
            .map(entry)
            .chain([(&b"."[..], directory)])
            .chain(slots[dot..dot_dot].iter().map(entry))
            .chain([(&b".."[..], parent)])
            .chain(slots[dot_dot..].iter().map(entry))
    }

    /// A symbolic link's target.
    pub(crate) fn target(&self, inode: &Inode) -> &[u8] {
        self.tree.bytes(inode.payload, inode.size)
    }

    fn slots(&self, directory: u32) -> &[u32] {
        let directory = directory as usize;
        &self.sorted[self.first[directory] as usize..self.first[directory + 1] as usize]
    }
}
