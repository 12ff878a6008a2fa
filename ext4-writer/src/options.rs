//! Options of a filesystem.

use blockbox_path::BytePath;

use crate::{Error, Progress, Timestamp};

/// The size of a block, the unit in which space is handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BlockSize {
    /// 1,024 bytes, for images of at most a few megabytes.
    B1024,
    /// 2,048 bytes.
    B2048,
    /// 4,096 bytes.
    #[default]
    B4096,
}

impl BlockSize {
    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        1024 << self.log()
    }

    /// `s_log_block_size`.
    pub(crate) const fn log(self) -> u32 {
        match self {
            Self::B1024 => 0,
            Self::B2048 => 1,
            Self::B4096 => 2,
        }
    }
}

/// How large a journal to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Journal {
    /// As large as mke2fs makes it for a filesystem of this size: none below 2,048 blocks, 64 MiB
    /// at 4 GiB, 1 GiB from 128 GiB.
    #[default]
    Auto,
    /// This many bytes, rounded down to whole blocks; at least 1,024 blocks.
    Size(u64),
    /// No journal.
    None,
}

/// Options of a filesystem.
///
/// The same options and the same tree give the same bytes: the time of creation and the identifiers
/// are options too.
///
/// ```
/// use ext4_writer::{Journal, Options};
///
/// let options = Options::new(64 << 20)
///     .label("data")
///     .inode_ratio(4096)
///     .journal(Journal::None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The image's size in bytes. What is left over after the last whole block, or after the last
    /// group where that would be too small to hold its own structures, stays unused.
    pub size: u64,
    /// The block size.
    pub block_size: BlockSize,
    /// The filesystem's UUID. `None`: derived from all other options.
    pub uuid: Option<[u8; 16]>,
    /// The volume's label, at most 16 bytes (`s_volume_name`).
    pub label: BytePath,
    /// The seed of directory hashes (`s_hash_seed`). `None`: derived from the UUID.
    pub hash_seed: Option<[u8; 16]>,
    /// One inode for this many bytes, at least 1,024. The number of inodes cannot change later.
    pub inode_ratio: u64,
    /// How many inodes, instead of as many as the ratio gives: rounded up to whole blocks of inodes
    /// in every group.
    pub inode_count: Option<u32>,
    /// The journal.
    pub journal: Journal,
    /// How much of the space only root may use, in percent, at most 50. mke2fs reserves 5; the
    /// default here is 0, because the images this crate is for have one user.
    pub reserved_percent: u8,
    /// How many blocks of group descriptors to reserve for growing while mounted (`resize_inode`,
    /// `s_reserved_gdt_blocks`). Each allocates one block in the image and lets the filesystem grow
    /// by 8 GiB (with 4 KiB blocks). `None`: what growing 1,024-fold needs, at most 32.
    pub reserved_gdt_blocks: Option<u16>,
    /// Whether directories may have hash trees of three index levels instead of two (`large_dir`):
    /// with blocks of 1 KiB, a directory holds about a million short names without. Linux needs
    /// 4.13 or later for it.
    pub large_dir: bool,
    /// Whether there is a file that lists what was deleted while open (`orphan_file`), where there
    /// is a journal: deleting is faster then on machines with many processors. Linux before 5.15
    /// uses the list in the superblock instead, and refuses to write only while the file lists
    /// something. mke2fs makes it by default since e2fsprogs 1.47.
    pub orphan_file: bool,
    /// Whether small files and directories lie in their inodes (`inline_data`): up to 60 bytes, or
    /// 128 where the inode has no extended attributes.
    pub inline_data: bool,
    /// Whether a value of an extended attribute may lie in an inode of its own (`ea_inode`): it may
    /// have 65,536 bytes then.
    pub ea_inode: bool,
    /// Whether the space of users and groups, and of projects where there is
    /// [`project`](Self::project), is accounted for in hidden files (`quota`). Linux writes to such
    /// a filesystem only where it has quotas (`CONFIG_QFMT_V2`).
    pub quota: bool,
    /// Whether a block of group descriptors lies in the groups it describes, and two copies of it
    /// (`meta_bg`), instead of all in every copy of the superblock's: nothing needs to be reserved
    /// for growing, but a damaged image is harder to repair. Where block numbers have more than 32
    /// bits, which `resize_inode` cannot point to, there is always this.
    pub meta_bg: bool,
    /// Whether directory hashes take names as signed chars, as on x86, or unsigned ones, as on ARM
    /// (`s_flags`). Any Linux reads both.
    pub signed_hash: bool,
    /// Whether files have a project to account them to (`project`): all begin in project 0
    /// ([`Builder::set_project`](crate::Builder::set_project)).
    /// Linux writes to such a filesystem only where it has quotas (`CONFIG_QFMT_V2`).
    pub project: bool,
    /// Whether files may get fs-verity's hash trees (`verity`); none has one at first. Linux mounts
    /// it where its pages are no larger than blocks, or since 6.3.
    pub verity: bool,
    /// Whether Linux refuses to mount the filesystem for writing (`read-only`).
    pub read_only: bool,
    /// When the filesystem was made; also the time of the root directory until it is given
    /// [`Metadata`](crate::Metadata).
    pub created: Timestamp,
    /// Reports the bytes of file contents written so far.
    pub progress: Option<Progress>,
}

impl Options {
    /// The defaults for an image of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            block_size: BlockSize::default(),
            uuid: None,
            label: BytePath::default(),
            hash_seed: None,
            inode_ratio: 16384,
            inode_count: None,
            journal: Journal::Auto,
            reserved_percent: 0,
            reserved_gdt_blocks: None,
            large_dir: false,
            orphan_file: true,
            inline_data: false,
            ea_inode: false,
            quota: false,
            meta_bg: false,
            signed_hash: true,
            project: false,
            verity: false,
            read_only: false,
            created: Timestamp::default(),
            progress: None,
        }
    }

    /// Sets [`progress`](field@Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }

    /// Sets [`size`](field@Self::size).
    #[must_use]
    pub fn size(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    /// Sets [`block_size`](field@Self::block_size).
    #[must_use]
    pub fn block_size(mut self, block_size: BlockSize) -> Self {
        self.block_size = block_size;
        self
    }

    /// Sets [`uuid`](field@Self::uuid).
    #[must_use]
    pub fn uuid(mut self, uuid: impl Into<Option<[u8; 16]>>) -> Self {
        self.uuid = uuid.into();
        self
    }

    /// Sets [`label`](field@Self::label).
    #[must_use]
    pub fn label(mut self, label: impl Into<BytePath>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets [`hash_seed`](field@Self::hash_seed).
    #[must_use]
    pub fn hash_seed(mut self, hash_seed: impl Into<Option<[u8; 16]>>) -> Self {
        self.hash_seed = hash_seed.into();
        self
    }

    /// Sets [`inode_ratio`](field@Self::inode_ratio).
    #[must_use]
    pub fn inode_ratio(mut self, inode_ratio: u64) -> Self {
        self.inode_ratio = inode_ratio;
        self
    }

    /// Sets [`inode_count`](field@Self::inode_count).
    #[must_use]
    pub fn inode_count(mut self, inode_count: impl Into<Option<u32>>) -> Self {
        self.inode_count = inode_count.into();
        self
    }

    /// Sets [`journal`](field@Self::journal).
    #[must_use]
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = journal;
        self
    }

    /// Sets [`reserved_percent`](field@Self::reserved_percent).
    #[must_use]
    pub fn reserved_percent(mut self, reserved_percent: u8) -> Self {
        self.reserved_percent = reserved_percent;
        self
    }

    /// Sets [`reserved_gdt_blocks`](field@Self::reserved_gdt_blocks).
    #[must_use]
    pub fn reserved_gdt_blocks(mut self, reserved_gdt_blocks: impl Into<Option<u16>>) -> Self {
        self.reserved_gdt_blocks = reserved_gdt_blocks.into();
        self
    }

    /// Sets [`large_dir`](field@Self::large_dir).
    #[must_use]
    pub fn large_dir(mut self, large_dir: bool) -> Self {
        self.large_dir = large_dir;
        self
    }

    /// Sets [`orphan_file`](field@Self::orphan_file).
    #[must_use]
    pub fn orphan_file(mut self, orphan_file: bool) -> Self {
        self.orphan_file = orphan_file;
        self
    }

    /// Sets [`inline_data`](field@Self::inline_data).
    #[must_use]
    pub fn inline_data(mut self, inline_data: bool) -> Self {
        self.inline_data = inline_data;
        self
    }

    /// Sets [`ea_inode`](field@Self::ea_inode).
    #[must_use]
    pub fn ea_inode(mut self, ea_inode: bool) -> Self {
        self.ea_inode = ea_inode;
        self
    }

    /// Sets [`quota`](field@Self::quota).
    #[must_use]
    pub fn quota(mut self, quota: bool) -> Self {
        self.quota = quota;
        self
    }

    /// Sets [`meta_bg`](field@Self::meta_bg).
    #[must_use]
    pub fn meta_bg(mut self, meta_bg: bool) -> Self {
        self.meta_bg = meta_bg;
        self
    }

    /// Sets [`signed_hash`](field@Self::signed_hash).
    #[must_use]
    pub fn signed_hash(mut self, signed_hash: bool) -> Self {
        self.signed_hash = signed_hash;
        self
    }

    /// Sets [`project`](field@Self::project).
    #[must_use]
    pub fn project(mut self, project: bool) -> Self {
        self.project = project;
        self
    }

    /// Sets [`verity`](field@Self::verity).
    #[must_use]
    pub fn verity(mut self, verity: bool) -> Self {
        self.verity = verity;
        self
    }

    /// Sets [`read_only`](field@Self::read_only).
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets [`created`](field@Self::created).
    #[must_use]
    pub fn created(mut self, created: impl Into<Timestamp>) -> Self {
        self.created = created.into();
        self
    }

    /// Checks what can be checked without planning.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let invalid = |option, value| Err(Error::Option { option, value });
        if self.label.len() > 16 || self.label.contains(&0) {
            return invalid("label", self.label.len() as u64);
        }
        if self.inode_ratio < 1024 {
            return invalid("inode_ratio", self.inode_ratio);
        }
        if self.inode_count == Some(0) {
            return invalid("inode_count", 0);
        }
        if self.reserved_percent > 50 {
            return invalid("reserved_percent", self.reserved_percent.into());
        }
        Ok(())
    }

    /// The UUID given, or one of version 8 (RFC 9562: custom) derived from the options.
    pub(crate) fn effective_uuid(&self) -> [u8; 16] {
        self.uuid.unwrap_or_else(|| {
            let size = self.size.to_le_bytes();
            let block_size = self.block_size.bytes().to_le_bytes();
            let ratio = self.inode_ratio.to_le_bytes();
            let journal = match self.journal {
                Journal::Auto => 0,
                Journal::None => 1,
                Journal::Size(bytes) => bytes,
            }
            .to_le_bytes();
            let reserved = self.reserved_gdt_blocks.map_or(u32::MAX, u32::from);
            let (reserved, secs) = (reserved.to_le_bytes(), self.created.secs.to_le_bytes());
            let nanos = self.created.nanos.to_le_bytes();
            let mut parts: Vec<&[u8]> = vec![
                b"uuid",
                &size,
                &block_size,
                &self.label,
                &ratio,
                &journal,
                std::slice::from_ref(&self.reserved_percent),
                &reserved,
                &secs,
                &nanos,
            ];
            let flags = [
                self.large_dir,
                self.project,
                self.verity,
                self.read_only,
                !self.orphan_file,
                self.inline_data,
                self.ea_inode,
                self.quota,
                self.meta_bg,
                !self.signed_hash,
            ]
            .map(u8::from);
            if flags.contains(&1) {
                parts.push(&flags);
            }
            let count = self.inode_count.map(u32::to_le_bytes);
            if let Some(count) = &count {
                parts.push(count);
            }
            let mut id = digest(&parts);
            id[6] = id[6] & 0x0f | 0x80;
            id[8] = id[8] & 0x3f | 0x80;
            id
        })
    }

    /// The hash seed given, or one derived from the UUID.
    pub(crate) fn effective_hash_seed(&self) -> [u8; 16] {
        self.hash_seed
            .unwrap_or_else(|| digest(&[b"hash seed", &self.effective_uuid()]))
    }
}

/// FNV-1a of 128 bits over the parts and their lengths: identifiers need to differ, not to resist
/// forgery.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in parts {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(*part) {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }
    hash.to_be_bytes()
}
