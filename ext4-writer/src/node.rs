//! Inodes while the tree is being built, and their encoding.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use zerocopy::IntoBytes;

use crate::checksum::Checksum;
use crate::format::{
    EXT4_EXTENTS_FL, EXT4_GOOD_OLD_FIRST_INO, EXT4_INLINE_DATA_FL, EXT4_LINK_MAX, EXT4_ROOT_INO,
    EXTRA_ISIZE, INODE_XATTR_SPACE, Inode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG,
    S_IFSOCK,
};
use crate::{DeviceNumber, Error, Kind, Metadata, Timestamp};

/// A node of the tree that a [`Builder`](crate::Builder) builds. Only the builder that returned it
/// accepts it: others report [`Error::ForeignNode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    owner: Owner,
    index: Index,
}

impl NodeId {
    /// Returns the inode number. The root's is fixed, the others' follow the reserved ones in the
    /// order in which they were added.
    pub fn ino(self) -> u32 {
        self.index.ino()
    }
}

/// The identity of a builder, which distinguishes its nodes from those of others. It is never
/// written to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner(usize);

impl Owner {
    /// Returns one that no other builder of this process has.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the handle of the node at `index`.
    pub(crate) fn node(self, index: Index) -> NodeId {
        NodeId { owner: self, index }
    }

    /// Returns the index of `node`.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignNode`] for a node of another builder.
    pub(crate) fn index(self, node: NodeId) -> Result<Index, Error> {
        match node.owner == self {
            true => Ok(node.index),
            false => Err(Error::ForeignNode),
        }
    }
}

/// The position of a node in the builder's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Index(pub(crate) u32);

impl Index {
    pub(crate) const ROOT: Self = Self(0);
    pub(crate) const LOST_AND_FOUND: Self = Self(1);

    pub(crate) fn ino(self) -> u32 {
        match self.0 {
            0 => EXT4_ROOT_INO,
            n => EXT4_GOOD_OLD_FIRST_INO - 1 + n,
        }
    }
}

impl Kind {
    /// The type bits of `i_mode`.
    pub(crate) fn mode(self) -> u16 {
        match self {
            Self::Directory => S_IFDIR,
            Self::File => S_IFREG,
            Self::Symlink => S_IFLNK,
            Self::CharDevice => S_IFCHR,
            Self::BlockDevice => S_IFBLK,
            Self::Fifo => S_IFIFO,
            Self::Socket => S_IFSOCK,
        }
    }

    /// `EXT4_FT_*` of directory entries.
    pub(crate) fn file_type(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => crate::directory::FT_DIR,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }
}

/// The body of an inode: its map of blocks or inline data.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// `i_block`.
    pub(crate) block: [u8; 60],
    /// Bytes.
    pub(crate) size: u64,
    /// Blocks of data and of mapping.
    pub(crate) blocks: u64,
    /// `EXT4_*_FL`.
    pub(crate) flags: u32,
    /// The rest of inline contents after those in `block` (`EXT4_INLINE_DATA_FL`).
    pub(crate) tail: Option<Vec<u8>>,
    /// All blocks, those of the mapping too.
    pub(crate) used: Vec<Range<u64>>,
}

impl Body {
    /// A body without blocks of its own.
    pub(crate) fn inline(block: [u8; 60], size: u64) -> Self {
        Self {
            block,
            size,
            blocks: 0,
            flags: 0,
            tail: None,
            used: Vec::new(),
        }
    }

    /// A body with inline contents: the first 60 bytes in `i_block`, the others in the attribute
    /// `system.data`.
    pub(crate) fn contents(bytes: &[u8]) -> Self {
        let mut block = [0; 60];
        let (head, tail) = bytes.split_at(bytes.len().min(block.len()));
        block[..head.len()].copy_from_slice(head);
        Self {
            flags: EXT4_INLINE_DATA_FL,
            tail: Some(tail.to_vec()),
            ..Self::inline(block, bytes.len() as u64)
        }
    }

    /// The body of a device special file, or `None` if the number has too many bits.
    pub(crate) fn device(DeviceNumber { major, minor }: DeviceNumber) -> Option<Self> {
        if major >= 1 << 12 || minor >= 1 << 20 {
            return None;
        }
        // The old encoding where it suffices, in the first word; else the new one, in the second
        // (`ext4_set_inode_rdev`).
        let mut block = [0; 60];
        if major < 256 && minor < 256 {
            block[..4].copy_from_slice(&(major << 8 | minor).to_le_bytes());
        } else {
            let new = (minor & 0xff) | major << 8 | (minor & !0xff) << 12;
            block[4..8].copy_from_slice(&new.to_le_bytes());
        }
        Some(Self::inline(block, 0))
    }

    /// A body that maps blocks by extents.
    pub(crate) fn extents(root: [u8; 60], size: u64, used: Vec<Range<u64>>) -> Self {
        Self {
            block: root,
            size,
            blocks: used.iter().map(|run| run.end - run.start).sum(),
            flags: EXT4_EXTENTS_FL,
            tail: None,
            used,
        }
    }
}

/// The names in a directory.
pub(crate) type Children = BTreeMap<Vec<u8>, Index>;

#[derive(Clone, Debug)]
pub(crate) struct TreeNode {
    pub(crate) kind: Kind,
    pub(crate) metadata: Metadata,
    /// The project to which its space is accounted.
    pub(crate) project: u32,
    /// Names, and for a directory its own `.` and its subdirectories' `..`.
    pub(crate) links: u32,
    pub(crate) body: Body,
    /// A symbolic link's target that does not fit in the inode.
    pub(crate) target: Option<Box<[u8]>>,
    /// The directory of its first name.
    pub(crate) parent: Index,
    pub(crate) children: Children,
}

impl TreeNode {
    /// Returns the placeholder of a removed node: nothing refers to it, and it has no inode.
    pub(crate) fn removed() -> Self {
        Self {
            kind: Kind::File,
            metadata: Metadata::new(0),
            project: 0,
            links: 0,
            body: Body::inline([0; 60], 0),
            target: None,
            parent: Index::ROOT,
            children: Children::new(),
        }
    }

    /// Returns the target of a symbolic link.
    pub(crate) fn target(&self) -> Option<&[u8]> {
        match &self.target {
            Some(target) => Some(target),
            None if self.kind == Kind::Symlink => self.body.block.get(..self.body.size as usize),
            None => None,
        }
    }
}

/// The fields from which an inode is encoded.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) ino: u32,
    /// With the type's bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) project: u32,
    pub(crate) time: Timestamp,
    pub(crate) links: u32,
    pub(crate) body: &'a Body,
    pub(crate) xattrs: [u8; INODE_XATTR_SPACE],
    /// The attribute block, or 0.
    pub(crate) xattr_block: u64,
    /// Values of its attributes that lie in inodes of their own.
    pub(crate) values: u64,
    /// The blocks of these.
    pub(crate) value_blocks: u64,
    /// For such an inode.
    pub(crate) value: Option<ValueInode>,
}

/// The reference count and hash in an inode that holds an attribute's value
/// (`ext4_xattr_inode_set_ref`, `ext4_xattr_inode_set_hash`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValueInode {
    pub(crate) hash: u32,
    pub(crate) references: u32,
}

impl<'a> Record<'a> {
    /// A hidden file's.
    pub(crate) fn hidden(ino: u32, body: &'a Body) -> Self {
        Self {
            ino,
            mode: S_IFREG | 0o600,
            uid: 0,
            gid: 0,
            project: 0,
            time: Timestamp::default(),
            links: 1,
            body,
            xattrs: [0; INODE_XATTR_SPACE],
            xattr_block: 0,
            values: 0,
            value_blocks: 0,
            value: None,
        }
    }

    /// The blocks that are accounted to its owner.
    pub(crate) fn blocks(&self) -> u64 {
        self.body.blocks + u64::from(self.xattr_block != 0) + self.value_blocks
    }

    /// `sectors_per_block` is the block size in the 512-byte units of `i_blocks`.
    pub(crate) fn encode(&self, sectors_per_block: u64, seed: Checksum) -> Inode {
        let body = self.body;
        let sectors = self.blocks() * sectors_per_block;
        let (time, extra) = self.time.encode();
        // dir_nlink: a directory with too many subdirectories to count has one link.
        let links = match self.links {
            links if links > EXT4_LINK_MAX => 1,
            links => links as u16,
        };
        let mut inode = Inode {
            i_mode: self.mode.into(),
            i_uid: (self.uid as u16).into(),
            i_size_lo: (body.size as u32).into(),
            i_atime: time.into(),
            i_ctime: time.into(),
            i_mtime: time.into(),
            i_dtime: 0.into(),
            i_gid: (self.gid as u16).into(),
            i_links_count: links.into(),
            i_blocks_lo: (sectors as u32).into(),
            i_flags: body.flags.into(),
            l_i_version: 0.into(),
            i_block: body.block,
            i_generation: 0.into(),
            i_file_acl_lo: (self.xattr_block as u32).into(),
            i_size_high: ((body.size >> 32) as u32).into(),
            i_obso_faddr: 0.into(),
            l_i_blocks_high: ((sectors >> 32) as u16).into(),
            l_i_file_acl_high: ((self.xattr_block >> 32) as u16).into(),
            l_i_uid_high: ((self.uid >> 16) as u16).into(),
            l_i_gid_high: ((self.gid >> 16) as u16).into(),
            l_i_checksum_lo: 0.into(),
            l_i_reserved: 0.into(),
            i_extra_isize: EXTRA_ISIZE.into(),
            i_checksum_hi: 0.into(),
            i_ctime_extra: extra.into(),
            i_mtime_extra: extra.into(),
            i_atime_extra: extra.into(),
            i_crtime: time.into(),
            i_crtime_extra: extra.into(),
            i_version_hi: 0.into(),
            i_projid: self.project.into(),
            xattrs: self.xattrs,
        };
        if let Some(value) = self.value {
            inode.i_atime = value.hash.into();
            inode.i_atime_extra = 0.into();
            inode.i_ctime = 0.into();
            inode.i_ctime_extra = 0.into();
            inode.l_i_version = value.references.into();
        }
        seal(&mut inode, seed.inode(self.ino));
        inode
    }
}

/// Sets an inode's checksum, which starts from its own seed, and returns the inode
/// (`ext4_inode_csum`).
pub(crate) fn seal(inode: &mut Inode, seed: Checksum) -> (u16, u16) {
    inode.l_i_checksum_lo = 0.into();
    inode.i_checksum_hi = 0.into();
    let (low, high) = seed.add(inode.as_bytes()).halves();
    inode.l_i_checksum_lo = low.into();
    inode.i_checksum_hi = high.into();
    (low, high)
}
