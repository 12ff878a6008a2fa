//! The check of structures that exist once: the superblock and the tables that it points to.

use zerocopy::FromBytes;
use zerocopy::little_endian::U16;

use super::ranges::{Owner, Ranges};
use super::report::Report;
use crate::algorithm::Algorithm;
use crate::areas::Areas;
use crate::corruption::{Detail, Structure};
use crate::error::{Error, Unsupported};
use crate::format::{
    self, DeflateConfiguration, Lz4Configuration, LzmaConfiguration, SuperBlock, ZstdConfiguration,
};
use crate::image::Image;
use crate::nid::Area;
use crate::num::{align_up, narrow, wide};
use crate::read_at::ReadAt;

/// The bytes of a configuration that are examined; no algorithm defines more.
const CONFIGURATION: u64 = 64;

/// Checks the structures that do not belong to an inode, and claims their bytes.
pub(super) fn check<R: ReadAt>(image: &Image<R>, report: &mut Report) -> Ranges {
    let mut ranges = Ranges::default();
    let sb = image.superblock();
    let Ok(raw) = SuperBlock::read_from_bytes(&sb.raw) else {
        return ranges;
    };
    let mut claim = |structure, start: u64, end: u64, report: &mut Report| {
        let owner = Owner::Structure(structure);
        if let Err(other) = ranges.claim(Area::Primary, start, end, owner) {
            let what = other.overlapped(start, end);
            report.error(None, Error::corrupt(None, start, what));
        }
    };
    let start = format::EROFS_SUPER_OFFSET;
    let end = start
        .saturating_add(wide(size_of::<SuperBlock>()))
        .saturating_add(u64::from(raw.sb_extslots).saturating_mul(format::EROFS_SB_EXTSLOT_SIZE));
    claim(Structure::Superblock, start, end, report);
    if sb.has_incompat(format::EROFS_FEATURE_INCOMPAT_COMPR_CFGS) {
        match configurations(image, end, report) {
            Ok(last) => claim(Structure::CompressionConfigurations, end, last, report),
            Err(e) => report.error(None, e),
        }
    }
    if !sb.devices.is_empty() {
        let start = u64::from(raw.devt_slotoff.get()).saturating_mul(format::EROFS_DEVT_SLOT_SIZE);
        let length = wide(sb.devices.len()).saturating_mul(format::EROFS_DEVT_SLOT_SIZE);
        let end = start.saturating_add(length);
        claim(Structure::DeviceTable, start, end, report);
    }
    if sb.xattr_prefix_count > 0 {
        match image.xattr_prefixes.range(image) {
            Ok(Some((start, end))) => claim(Structure::XattrPrefixes, start, end, report),
            Ok(None) => {}
            Err(e) => report.error(None, e),
        }
    }
    ranges
}

/// Checks the configuration of each algorithm as the kernel does when it mounts
/// (`z_erofs_parse_cfgs`), from byte `start` on. Returns where they end.
fn configurations<R: ReadAt>(
    image: &Image<R>,
    start: u64,
    report: &mut Report,
) -> Result<u64, Error> {
    let sb = image.superblock();
    let unknown = sb.compression_algorithms >> Algorithm::ALL.len();
    if unknown != 0 {
        let what = Unsupported::Compression("unknown algorithm");
        report.error(None, Error::unsupported(None, what));
    }
    let mut at = start;
    for (number, algorithm) in (0_u32..).zip(Algorithm::ALL) {
        if sb.compression_algorithms & 1_u16.wrapping_shl(number) == 0 {
            continue;
        }
        at = align_up(at, 4).unwrap_or(u64::MAX);
        let mut length = [0; 2];
        image.storage().read_device(0, None, &mut length, at)?;
        let length = match U16::from_bytes(length).get() {
            0 => 1 << 16,
            length => u64::from(length),
        };
        let body = at.saturating_add(2);
        image.storage().check_range(0, None, body, length)?;
        let mut bytes = [0; 64];
        let bytes = bytes
            .get_mut(..narrow(length.min(CONFIGURATION)))
            .unwrap_or_default();
        image.storage().read_device(0, None, bytes, body)?;
        if let Err(what) = configuration(algorithm, bytes, sb.block_size.bytes()) {
            let what = Detail::CompressionConfiguration { algorithm, what };
            report.error(None, Error::corrupt(None, at, what));
        }
        at = body.saturating_add(length);
    }
    Ok(at)
}

/// Returns the problem of one configuration.
fn configuration(algorithm: Algorithm, bytes: &[u8], block: u64) -> Result<(), &'static str> {
    let short = "too short";
    match algorithm {
        Algorithm::Lz4 => {
            let (lz4, _) = Lz4Configuration::read_from_prefix(bytes).map_err(|_| short)?;
            let cluster = u64::from(lz4.max_pclusterblks.get()).saturating_mul(block);
            if cluster > format::PCLUSTER_MAX_SIZE {
                return Err("clusters larger than the format allows");
            }
        }
        Algorithm::Lzma => {
            let (lzma, _) = LzmaConfiguration::read_from_prefix(bytes).map_err(|_| short)?;
            if lzma.format.get() != 0 {
                return Err("unknown format");
            }
            if !(4096..=8 << 20).contains(&lzma.dict_size.get()) {
                return Err("dictionary of a size that is not allowed");
            }
        }
        Algorithm::Deflate => {
            let (deflate, _) = DeflateConfiguration::read_from_prefix(bytes).map_err(|_| short)?;
            if deflate.windowbits > 15 {
                return Err("window larger than deflate has");
            }
        }
        Algorithm::Zstd => {
            let (zstd, _) = ZstdConfiguration::read_from_prefix(bytes).map_err(|_| short)?;
            if zstd.format != 0 {
                return Err("unknown format");
            }
            // log2 of the window, of which 10 are not stored; 1 MiB at most.
            if zstd.windowlog > 10 {
                return Err("window larger than the format allows");
            }
        }
    }
    Ok(())
}
