//! The superblock, decoded and checked once.

use alloc::vec;
use alloc::vec::Vec;

use blockbox_path::BytePath;
use zerocopy::FromBytes;

use crate::checksum::crc32c;
use crate::corruption::Detail;
use crate::error::{Error, Unsupported};
use crate::format::{self, SuperBlock, SuperBlockSlot1};
use crate::nid::Nid;
use crate::num::wide;
use crate::read_at::{ReadAt, read_full};

/// A block size: a power of two from 512 bytes to 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BlockSize(u8);

impl BlockSize {
    fn new(bits: u8) -> Option<Self> {
        (9..=16).contains(&bits).then_some(Self(bits))
    }

    /// Returns the base-2 logarithm (`blkszbits`).
    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }

    /// Returns the size in bytes.
    pub fn bytes(self) -> u64 {
        1_u64.wrapping_shl(self.bits())
    }

    /// In bytes, as the length of a buffer.
    pub(crate) fn len(self) -> usize {
        1_usize.wrapping_shl(self.bits())
    }

    /// How many blocks `bytes` bytes take.
    pub(crate) fn count(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes())
    }

    /// Where block `block` begins.
    pub(crate) fn position(self, block: u64) -> Option<u64> {
        block.checked_mul(self.bytes())
    }

    /// The offset of `position` in its block.
    pub(crate) fn within(self, position: u64) -> u64 {
        position & self.bytes().wrapping_sub(1)
    }
}

/// The superblock (`struct erofs_super_block`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Superblock {
    /// The unit of every block address.
    pub block_size: BlockSize,
    /// Compatible features: `EROFS_FEATURE_COMPAT_*`. Unknown bits are harmless.
    pub feature_compat: u32,
    /// Incompatible features: `EROFS_FEATURE_INCOMPAT_*`. Unknown bits never get here, but by
    /// [`Image::open_damaged`](crate::Image::open_damaged).
    pub feature_incompat: u32,
    /// The stored checksum, where the image has one; it was verified, unless by
    /// [`Image::open_damaged`](crate::Image::open_damaged).
    pub checksum: Option<u32>,
    /// The root directory.
    pub root_nid: Nid,
    /// The number of inodes (`inos`), as statfs reports it.
    pub inodes: u64,
    /// The number of blocks of the primary device (`blocks`).
    pub blocks: u64,
    /// Seconds since 1970 that the mtimes of compact inodes count from (`epoch`).
    pub epoch: i64,
    /// Nanoseconds of the mtime of every compact inode (`fixed_nsec`).
    pub fixed_nsec: u32,
    /// Seconds from `epoch` to when the image was made (`build_time`).
    pub build_time: u32,
    /// The block that nids count from (`meta_blkaddr`).
    pub meta_block: u32,
    /// The block that shared xattrs count from (`xattr_blkaddr`).
    pub xattr_block: u32,
    /// The volume's UUID.
    pub uuid: [u8; 16],
    /// The volume's label (`volume_name`) without trailing NULs.
    pub label: BytePath,
    /// The device table, in order: device 1 is the first.
    pub devices: Vec<DeviceSlot>,
    /// The inode that holds fragments (`packed_nid`).
    pub packed_nid: Option<Nid>,
    /// The inode that holds other inodes (`metabox_nid`).
    pub metabox_nid: Option<Nid>,
    /// Compression algorithms in use (`available_compr_algs`): bit 0 LZ4, 1 LZMA, 2 deflate, 3
    /// zstd.
    pub compression_algorithms: u16,
    /// How many long xattr name prefixes there are.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) xattr_prefix_count: u8,
    /// Where they are, in units of 4 bytes.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) xattr_prefix_start: u32,
    /// The bytes of the superblock, for what only [`Image::check`](crate::Image::check) looks at.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) raw: SuperBlockBytes,
}

pub(crate) type SuperBlockBytes = [u8; 128];

/// One slot of the device table (`struct erofs_deviceslot`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DeviceSlot {
    /// The identifier of the device without trailing NULs: a digest in hexadecimal digits, for
    /// example.
    pub tag: BytePath,
    /// Its size in blocks.
    pub blocks: u64,
    /// The first block of its range in the unified address space; 0 where it has none
    /// (`mapped_blkaddr`, `uniaddr`).
    pub uniaddr: u64,
}

impl Superblock {
    /// Reads the superblock. `judge` decides about problems that do not prevent reading the rest.
    pub(crate) fn read<R: ReadAt>(
        primary: &R,
        size: u64,
        mut judge: impl FnMut(Error) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut raw = [0; size_of::<SuperBlock>()];
        let disk = read_raw(primary, &mut raw)?;
        let block_size = BlockSize::new(disk.blkszbits)
            .ok_or_else(|| corrupt(Detail::BlockSize(disk.blkszbits)))?;
        let feature_compat = disk.feature_compat.get();
        let checksum = (feature_compat & format::EROFS_FEATURE_COMPAT_SB_CHKSUM != 0)
            .then_some(disk.checksum.get());
        if let Some(stored) = checksum {
            let computed = compute_checksum(primary, block_size)?;
            if computed != stored {
                judge(corrupt(Detail::Checksum { stored, computed }))?;
            }
        }
        let feature_incompat = disk.feature_incompat.get();
        let unknown = feature_incompat & !known_incompat();
        if unknown != 0 {
            let what = Unsupported::IncompatibleFeatures(unknown);
            judge(Error::unsupported(None, what))?;
        }
        if disk.dirblkbits != 0 {
            return Err(Error::unsupported(
                None,
                Unsupported::DirectoryBlockBits(disk.dirblkbits),
            ));
        }
        let has = |bit| feature_incompat & bit != 0;
        let wide_addresses = has(format::EROFS_FEATURE_INCOMPAT_48BIT);
        let (root_nid, blocks_hi) = match disk.rootnid_8b.get() {
            nid if nid != 0 && wide_addresses => (nid, disk.rb.get()),
            _ => (u64::from(disk.rb.get()), 0),
        };
        let slot = read_slot1(primary, &disk)?;
        let metabox_nid = has(format::EROFS_FEATURE_INCOMPAT_METABOX)
            .then(|| metabox_nid(slot))
            .transpose()?;
        let packed_nid = (has(format::EROFS_FEATURE_INCOMPAT_FRAGMENTS)
            && disk.packed_nid.get() != 0)
            .then(|| Nid::new(disk.packed_nid.get()));
        let compression_algorithms = if has(format::EROFS_FEATURE_INCOMPAT_COMPR_CFGS) {
            disk.u1.get()
        } else {
            // Before this field existed, LZ4 was the only algorithm.
            1
        };
        let devices = if has(format::EROFS_FEATURE_INCOMPAT_DEVICE_TABLE) {
            read_devices(primary, size, &disk, wide_addresses)?
        } else {
            Vec::new()
        };
        Ok(Self {
            block_size,
            feature_compat,
            feature_incompat,
            checksum,
            root_nid: Nid::new(root_nid),
            inodes: disk.inos.get(),
            blocks: u64::from(disk.blocks_lo.get()) | u64::from(blocks_hi).wrapping_shl(32),
            epoch: disk.epoch.get().cast_signed(),
            fixed_nsec: disk.fixed_nsec.get(),
            build_time: disk.build_time.get(),
            meta_block: disk.meta_blkaddr.get(),
            xattr_block: disk.xattr_blkaddr.get(),
            uuid: disk.uuid,
            label: until_nul(&disk.volume_name).into(),
            devices,
            packed_nid,
            metabox_nid,
            compression_algorithms,
            xattr_prefix_count: if has(format::EROFS_FEATURE_INCOMPAT_XATTR_PREFIXES) {
                disk.xattr_prefix_count
            } else {
                0
            },
            xattr_prefix_start: disk.xattr_prefix_start.get(),
            raw,
        })
    }

    /// Returns the names of the features in use, as `dump.erofs` prints them, compatible ones
    /// first.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let names: Vec<_> = image.superblock().feature_names().collect();
    /// println!("{}", names.join(" "));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn feature_names(&self) -> impl Iterator<Item = &'static str> {
        let names = |bits: u32, table: &'static [(u32, &'static str)]| {
            table
                .iter()
                .filter(move |(bit, _)| bits & bit != 0)
                .map(|(_, name)| *name)
        };
        names(self.feature_compat, COMPAT).chain(names(self.feature_incompat, INCOMPAT))
    }

    /// Whether the xattr name filters mean nothing, as a non-zero reserved byte says.
    pub(crate) fn filter_disabled(&self) -> bool {
        SuperBlock::ref_from_bytes(&self.raw).is_ok_and(|raw| raw.xattr_filter_reserved != 0)
    }

    /// Whether a name index, as stored, says that the xattr is a digest that files of equal
    /// contents share pages by (`ishare_xattr_prefix_id`).
    pub(crate) fn is_digest(&self, index: u8) -> bool {
        self.has_compat(format::EROFS_FEATURE_COMPAT_ISHARE_XATTRS)
            && SuperBlock::ref_from_bytes(&self.raw).is_ok_and(|raw| {
                index == raw.ishare_xattr_prefix_id | format::EROFS_XATTR_LONG_PREFIX
            })
    }

    /// Whether padding zeros come before the data of a cluster, not after it.
    pub(crate) fn is_padded(&self) -> bool {
        self.has_incompat(format::EROFS_FEATURE_INCOMPAT_ZERO_PADDING)
    }

    pub(crate) fn has_incompat(&self, bit: u32) -> bool {
        self.feature_incompat & bit != 0
    }

    pub(crate) fn has_compat(&self, bit: u32) -> bool {
        self.feature_compat & bit != 0
    }
}

pub(crate) const COMPAT: &[(u32, &str)] = &[
    (format::EROFS_FEATURE_COMPAT_SB_CHKSUM, "sb_csum"),
    (format::EROFS_FEATURE_COMPAT_MTIME, "mtime"),
    (format::EROFS_FEATURE_COMPAT_XATTR_FILTER, "xattr_filter"),
    (
        format::EROFS_FEATURE_COMPAT_SHARED_EA_IN_METABOX,
        "shared_ea_in_metabox",
    ),
    (
        format::EROFS_FEATURE_COMPAT_PLAIN_XATTR_PFX,
        "plain_xattr_pfx",
    ),
    (format::EROFS_FEATURE_COMPAT_ISHARE_XATTRS, "ishare_xattrs"),
];

const INCOMPAT: &[(u32, &str)] = &[
    (format::EROFS_FEATURE_INCOMPAT_ZERO_PADDING, "0padding"),
    (format::EROFS_FEATURE_INCOMPAT_COMPR_CFGS, "compr_cfgs"),
    (format::EROFS_FEATURE_INCOMPAT_CHUNKED_FILE, "chunked_file"),
    (format::EROFS_FEATURE_INCOMPAT_DEVICE_TABLE, "device_table"),
    (format::EROFS_FEATURE_INCOMPAT_ZTAILPACKING, "ztailpacking"),
    (format::EROFS_FEATURE_INCOMPAT_FRAGMENTS, "fragments"),
    (
        format::EROFS_FEATURE_INCOMPAT_XATTR_PREFIXES,
        "xattr_prefixes",
    ),
    (format::EROFS_FEATURE_INCOMPAT_48BIT, "48bit"),
    (format::EROFS_FEATURE_INCOMPAT_METABOX, "metabox"),
];

fn known_incompat() -> u32 {
    INCOMPAT.iter().fold(0, |bits, (bit, _)| bits | bit)
}

fn corrupt(what: Detail) -> Error {
    Error::corrupt(None, format::EROFS_SUPER_OFFSET, what)
}

fn read_primary<R: ReadAt>(primary: &R, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
    read_full(primary, buf, offset).map_err(|source| Error::Io {
        device: 0,
        offset,
        source,
    })
}

/// Reads the superblock into `raw`, and checks that it is one.
fn read_raw<R: ReadAt>(
    primary: &R,
    raw: &mut [u8; size_of::<SuperBlock>()],
) -> Result<SuperBlock, Error> {
    let got = read_primary(primary, raw, format::EROFS_SUPER_OFFSET)?;
    let short = || corrupt(Detail::SuperblockSize(wide(got)));
    let disk = SuperBlock::read_from_bytes(raw).map_err(|_| short())?;
    let magic = disk.magic.get();
    if magic != format::EROFS_SUPER_MAGIC_V1 {
        return Err(Error::NotErofs { magic });
    }
    if got < raw.len() {
        return Err(short());
    }
    Ok(disk)
}

/// Returns the number of the metabox inode.
fn metabox_nid(slot: Option<SuperBlockSlot1>) -> Result<Nid, Error> {
    let slot = slot.ok_or_else(|| corrupt(Detail::SuperblockSize(128)))?;
    match slot.metabox_nid.get() {
        nid if nid & format::EROFS_NID_METABOX != 0 => Err(corrupt(Detail::SelfReference)),
        nid => Ok(Nid::new(nid)),
    }
}

/// The first extension slot, where there is one.
fn read_slot1<R: ReadAt>(primary: &R, disk: &SuperBlock) -> Result<Option<SuperBlockSlot1>, Error> {
    let size = u64::from(disk.sb_extslots)
        .saturating_mul(format::EROFS_SB_EXTSLOT_SIZE)
        .saturating_add(wide(size_of::<SuperBlock>()));
    // The kernel reads the superblock from one page.
    if size.saturating_add(format::EROFS_SUPER_OFFSET) > 4096 {
        return Err(corrupt(Detail::SuperblockSize(size)));
    }
    if disk.sb_extslots == 0 {
        return Ok(None);
    }
    let mut raw = [0; size_of::<SuperBlockSlot1>()];
    let at = format::EROFS_SUPER_OFFSET.saturating_add(wide(size_of::<SuperBlock>()));
    if read_primary(primary, &mut raw, at)? < raw.len() {
        return Err(corrupt(Detail::SuperblockSize(size)));
    }
    SuperBlockSlot1::read_from_bytes(&raw)
        .map(Some)
        .map_err(|_| corrupt(Detail::SuperblockSize(size)))
}

/// CRC-32C without its final inversion, from the superblock to the end of its block (of the block
/// after it, where blocks are so small that the superblock is not in the first), the checksum
/// itself taken as 0.
fn compute_checksum<R: ReadAt>(primary: &R, block_size: BlockSize) -> Result<u32, Error> {
    let offset = format::EROFS_SUPER_OFFSET;
    let length = match block_size.bytes() {
        bytes if bytes > offset => bytes.saturating_sub(offset),
        bytes => bytes,
    };
    let mut bytes = vec![0; crate::num::narrow(length)];
    let got = read_primary(primary, &mut bytes, offset)?;
    if got < bytes.len() {
        return Err(corrupt(Detail::SuperblockSize(wide(got))));
    }
    if let Some(checksum) = bytes.get_mut(4..8) {
        checksum.fill(0);
    }
    Ok(crc32c(&bytes))
}

fn read_devices<R: ReadAt>(
    primary: &R,
    size: u64,
    disk: &SuperBlock,
    wide_addresses: bool,
) -> Result<Vec<DeviceSlot>, Error> {
    let slots = disk.extra_devices.get();
    let start = u64::from(disk.devt_slotoff.get()).saturating_mul(format::EROFS_DEVT_SLOT_SIZE);
    let length = u64::from(slots).saturating_mul(format::EROFS_DEVT_SLOT_SIZE);
    let end = start.saturating_add(length);
    let beyond = || Error::corrupt(None, start, Detail::DeviceTable { slots, end, size });
    if end > size {
        return Err(beyond());
    }
    let mut raw = vec![0; crate::num::narrow(length)];
    if read_primary(primary, &mut raw, start)? < raw.len() {
        return Err(beyond());
    }
    let (found, _) = <[format::DeviceSlot]>::ref_from_prefix_with_elems(&raw, slots.into())
        .map_err(|_| beyond())?;
    Ok(found
        .iter()
        .map(|slot| {
            let (blocks_hi, uniaddr_hi) = if wide_addresses {
                (slot.blocks_hi.get(), slot.uniaddr_hi.get())
            } else {
                (0, 0)
            };
            DeviceSlot {
                tag: until_nul(&slot.tag).into(),
                blocks: u64::from(slot.blocks_lo.get()) | u64::from(blocks_hi).wrapping_shl(32),
                uniaddr: u64::from(slot.uniaddr_lo.get()) | u64::from(uniaddr_hi).wrapping_shl(32),
            }
        })
        .collect())
}

/// `bytes` without the NULs at its end.
fn until_nul(bytes: &[u8]) -> &[u8] {
    let length = bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last.saturating_add(1));
    bytes.get(..length).unwrap_or_default()
}
