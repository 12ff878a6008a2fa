//! The first bytes of an image: superblock, device table, long xattr prefixes.

use xxhash_rust::xxh3::Xxh3;
use zerocopy::IntoBytes;

use crate::compress::{self, Used};
use crate::format::{
    self, FEATURE_COMPAT_MTIME, FEATURE_COMPAT_SB_CHKSUM, FEATURE_COMPAT_XATTR_FILTER,
    FEATURE_INCOMPAT_48BIT, FEATURE_INCOMPAT_CHUNKED_FILE, FEATURE_INCOMPAT_COMPR_CFGS,
    FEATURE_INCOMPAT_DEVICE_TABLE, FEATURE_INCOMPAT_FRAGMENTS, FEATURE_INCOMPAT_LZ4_0PADDING,
    FEATURE_INCOMPAT_XATTR_PREFIXES, FEATURE_INCOMPAT_ZTAILPACKING, SUPER_MAGIC, SUPER_OFFSET,
    SuperBlock,
};
use crate::{Addresses, DeviceSlot, Error, Options, Timestamp, Uuid};

/// `extra_devices` has 16 bits, and `root_nid` another 16 that count from after the table.
const DEVICES_MAX: usize = u16::MAX as usize;

/// The parts of the superblock that do not come from the options.
#[derive(Debug)]
pub(crate) struct SuperblockFields<'a> {
    pub(crate) root_nid: u64,
    pub(crate) inodes: u64,
    pub(crate) epoch: Timestamp,
    pub(crate) blocks: u64,
    pub(crate) meta_blkaddr: u32,
    pub(crate) xattr_blkaddr: u32,
    pub(crate) xattr_filter: bool,
    pub(crate) chunked: bool,
    pub(crate) packed_nid: Option<u64>,
    pub(crate) used: &'a Used,
}

/// The bytes from [`SUPER_OFFSET`] on that superblock, device table and long xattr prefixes take.
pub(crate) fn length(options: &Options, devices: usize) -> u64 {
    table_end(options, devices) - SUPER_OFFSET + options.xattr_prefixes.table_length() as u64
}

/// The first byte after superblock, device table and xattr prefixes that can hold contents.
pub(crate) fn data_start(options: &Options, devices: usize) -> u64 {
    options
        .block_size
        .align(SUPER_OFFSET + length(options, devices))
}

/// Checks that there is room for one more device.
pub(crate) fn check_devices(devices: usize) -> Result<(), Error> {
    if devices < DEVICES_MAX {
        Ok(())
    } else {
        Err(Error::TooManyDevices(DEVICES_MAX as u64))
    }
}

/// The bytes from [`SUPER_OFFSET`] to the next block border, and the UUID in them. `starts` is
/// where each device begins in the unified address space, the image itself being the first;
/// `content` is the hash of everything else; `behind` are the bytes after it in the same block,
/// unless they are all zeros.
pub(crate) fn form(
    options: &Options,
    fields: &SuperblockFields<'_>,
    devices: &[DeviceSlot],
    starts: &[u64],
    mut content: Xxh3,
    behind: &[u8],
) -> (Vec<u8>, [u8; 16]) {
    let since_epoch = options
        .build_time
        .map_or(0, |time| i128::from(time) - i128::from(fields.epoch.secs))
        .clamp(0, i128::from(u32::MAX));
    let wide = options.addresses == Addresses::Bits48;
    let rb = if wide {
        fields.blocks >> 32
    } else {
        fields.root_nid
    };
    let (compat, incompat) = features(options, fields, devices);
    let table_slot = table_start(options) / size_of::<format::DeviceSlot>() as u64;
    let prefixes = &options.xattr_prefixes;
    let prefix_start = match prefixes.count() {
        0 => 0,
        // The packed inode begins with them.
        _ if fields.packed_nid.is_some() => 0,
        // In words.
        _ => table_end(options, devices.len()) as u32 / 4,
    };
    let mut superblock = SuperBlock {
        magic: SUPER_MAGIC.into(),
        feature_compat: compat.into(),
        blkszbits: options.block_size.bits(),
        rb: (rb as u16).into(),
        inos: fields.inodes.into(),
        epoch: (fields.epoch.secs as u64).into(),
        fixed_nsec: fields.epoch.nanos.into(),
        blocks_lo: (fields.blocks as u32).into(),
        meta_blkaddr: fields.meta_blkaddr.into(),
        xattr_blkaddr: fields.xattr_blkaddr.into(),
        volume_name: options.label.bytes(),
        feature_incompat: incompat.into(),
        available_compr_algs: fields.used.algorithms().into(),
        extra_devices: (devices.len() as u16).into(),
        devt_slotoff: if devices.is_empty() {
            0
        } else {
            table_slot as u16
        }
        .into(),
        xattr_prefix_count: prefixes.count(),
        xattr_prefix_start: prefix_start.into(),
        packed_nid: fields.packed_nid.unwrap_or(0).into(),
        build_time: (since_epoch as u32).into(),
        rootnid_8b: if wide { fields.root_nid } else { 0 }.into(),
        ..SuperBlock::default()
    };
    let tables = tables(options, fields, devices, starts);
    superblock.uuid = match options.uuid {
        Uuid::Given(uuid) => uuid,
        Uuid::Nil => [0; 16],
        Uuid::Derived => {
            content.update(superblock.as_bytes());
            content.update(&tables);
            version_8(content.digest128().to_be_bytes())
        }
    };
    let form = |superblock: &SuperBlock| {
        let mut bytes = superblock.as_bytes().to_vec();
        bytes.extend_from_slice(&tables);
        if behind.is_empty() {
            let end = options.block_size.align(SUPER_OFFSET + bytes.len() as u64);
            bytes.resize((end - SUPER_OFFSET) as usize, 0);
        } else {
            bytes.extend_from_slice(behind);
        }
        bytes
    };
    let block = u64::from(options.block_size.bytes());
    superblock.checksum = checksum(&form(&superblock), block).into();
    (form(&superblock), superblock.uuid)
}

/// The bits of `feature_compat` and `feature_incompat`.
fn features(
    options: &Options,
    fields: &SuperblockFields<'_>,
    devices: &[DeviceSlot],
) -> (u32, u32) {
    let feature = |bit: u32, used: bool| if used { bit } else { 0 };
    let compat = FEATURE_COMPAT_SB_CHKSUM
        | FEATURE_COMPAT_MTIME
        | feature(FEATURE_COMPAT_XATTR_FILTER, fields.xattr_filter);
    let wide = options.addresses == Addresses::Bits48;
    let prefixes = options.xattr_prefixes.count() > 0;
    let compressed = FEATURE_INCOMPAT_LZ4_0PADDING | FEATURE_INCOMPAT_COMPR_CFGS;
    let fragments = fields.packed_nid.is_some() || fields.used.partial;
    let incompat = feature(FEATURE_INCOMPAT_48BIT, wide)
        | feature(FEATURE_INCOMPAT_XATTR_PREFIXES, prefixes)
        | feature(FEATURE_INCOMPAT_DEVICE_TABLE, !devices.is_empty())
        | feature(compressed, options.compresses())
        | feature(FEATURE_INCOMPAT_ZTAILPACKING, fields.used.inline)
        | feature(FEATURE_INCOMPAT_FRAGMENTS, fragments)
        | feature(FEATURE_INCOMPAT_CHUNKED_FILE, fields.chunked);
    (compat, incompat)
}

/// What follows the superblock: configurations of compression, devices and prefixes of xattrs.
fn tables(
    options: &Options,
    fields: &SuperblockFields<'_>,
    devices: &[DeviceSlot],
    starts: &[u64],
) -> Vec<u8> {
    let mut tables = Vec::new();
    if options.compresses() {
        // `erofs_scan_devices` and `z_erofs_parse_cfgs` read one after the other.
        tables = compress::configurations(fields.used, options.block_size);
        tables.resize(size_of::<format::DeviceSlot>(), 0);
    }
    for (device, &start) in devices.iter().zip(starts.iter().skip(1)) {
        let slot = format::DeviceSlot {
            tag: device.tag,
            blocks_lo: (device.blocks as u32).into(),
            uniaddr_lo: (start as u32).into(),
            // Non-zero only with 48-bit addresses: the sum was checked against the limit.
            blocks_hi: ((device.blocks >> 32) as u16).into(),
            uniaddr_hi: ((start >> 32) as u16).into(),
            reserved: [0; 52],
        };
        tables.extend_from_slice(slot.as_bytes());
    }
    tables.extend_from_slice(&options.xattr_prefixes.table());
    tables
}

/// Where the device table ends.
fn table_end(options: &Options, devices: usize) -> u64 {
    table_start(options) + (devices * size_of::<format::DeviceSlot>()) as u64
}

/// The start of the device table, after the compression configurations, which are shorter than a
/// slot.
fn table_start(options: &Options) -> u64 {
    let slots = 1 + u64::from(options.compresses());
    SUPER_OFFSET + slots * size_of::<format::DeviceSlot>() as u64
}

/// The CRC-32C of the rest of the superblock's block, as `erofs_superblock_csum_verify`: of a block
/// larger than [`SUPER_OFFSET`] what stands before the superblock does not count; of a smaller one,
/// all of a block's length does.
fn checksum(from_superblock: &[u8], block: u64) -> u32 {
    let covered = if block > SUPER_OFFSET {
        block - SUPER_OFFSET
    } else {
        block
    };
    // The kernel's crc32c() does not invert its result.
    !crc32c::crc32c(&from_superblock[..covered as usize])
}

/// A hash as a UUID of version 8 (RFC 9562, custom).
fn version_8(mut hash: [u8; 16]) -> [u8; 16] {
    hash[6] = hash[6] & 0x0f | 0x80;
    hash[8] = hash[8] & 0x3f | 0x80;
    hash
}
