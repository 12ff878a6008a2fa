//! Options of commands that write an image.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;

use anyhow::Context;
use blockbox::layer::{BuildOptions, Times};
use blockbox::store::Meter;
use clap::{Args, ValueEnum};
use erofs_writer::{
    Addresses, Algorithm, BlockSize, ChunkSize, Compression, Fragments, InodeLayout, Label,
    Options, Timestamp, Uuid,
};

use super::super::size::size;

/// Options of an image. Only images with 512-byte blocks, without compression and inline tails, can
/// be merged.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(super) struct ImageOptions {
    /// The size of a block: a power of two from 512 to 65536 [default: 512]
    #[arg(long, value_parser = block_size, value_name = "BYTES")]
    block_size: Option<BlockSize>,
    /// Store every file in chunks of this size, equal chunks once: a power of two, from one block
    /// on. A file whose chunks are contiguous is stored as one extent [default: only files with
    /// holes have chunks]
    #[arg(long, value_parser = size, value_name = "SIZE", conflicts_with = "compress")]
    chunk_size: Option<u64>,
    /// Compress files: `lz4` (levels 0 to 12) or `lz4hc` (1 to 12), `zstd` (1 to 22), `deflate` or
    /// `lzma` (0 to 9), from fast to small. Blocks of 4096 bytes suit it best
    #[arg(long, value_parser = compression, value_name = "ALG[,LEVEL]")]
    compress: Option<Compression>,
    /// The most bytes compressed into one cluster [default: one block]
    #[arg(long, requires = "compress", value_parser = size, value_name = "SIZE")]
    cluster_size: Option<u64>,
    /// How many threads compress; the image is the same for any number [default: as many as the
    /// machine runs at once]
    #[arg(long, requires = "compress", value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// The modification time of all files, in seconds since 1970 with at most nine decimals, and
    /// the time the image was made, as `mkfs.erofs -T`
    #[arg(long, value_parser = time, value_name = "SECONDS", allow_negative_numbers = true)]
    mtime: Option<Timestamp>,
    /// Apply `--mtime` only to later times
    #[arg(long, requires = "mtime")]
    clamp_mtime: bool,
    /// The volume's UUID: this one, `nil` or `random` [default: derived from the contents]
    #[arg(long, value_parser = uuid, value_name = "UUID")]
    uuid: Option<Uuid>,
    /// The volume's name, at most 15 bytes
    #[arg(long, value_parser = label, value_name = "NAME")]
    label: Option<Label>,
    /// `inline-tails`, `48bit`, `chunk-indexes`, `extended-inodes`; for compressed files
    /// `full-indexes`, and with mkfs.erofs's names `ztailpacking`, `fragments`, `all-fragments`,
    /// `dedupe`
    #[arg(long, value_delimiter = ',', value_enum, value_name = "a,b,…")]
    features: Vec<Feature>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Feature {
    InlineTails,
    #[value(name = "48bit")]
    Bits48,
    ChunkIndexes,
    FullIndexes,
    ExtendedInodes,
    Ztailpacking,
    Fragments,
    AllFragments,
    Dedupe,
}

impl Feature {
    /// Features of compressed files only.
    const OF_COMPRESSION: [Self; 5] = [
        Self::FullIndexes,
        Self::Ztailpacking,
        Self::Fragments,
        Self::AllFragments,
        Self::Dedupe,
    ];
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let bytes = size(text)?;
    u32::try_from(bytes)
        .map_err(|_| format!("{bytes} is more than 65536"))
        .and_then(|bytes| BlockSize::new(bytes).map_err(|error| error.to_string()))
}

fn label(text: &str) -> Result<Label, String> {
    Label::new(text).map_err(|error| error.to_string())
}

/// mkfs.erofs's name for LZ4 with a level, and its default level.
const LZ4HC: &str = "lz4hc";
const LZ4HC_LEVEL: u8 = 9;

/// Parses an algorithm with a level, also as mkfs.erofs spells them: `lz4hc` for LZ4 with a level,
/// and `,level=LEVEL`.
pub(crate) fn compression(text: &str) -> Result<Compression, String> {
    let (name, level) = match text.split_once(',') {
        Some((name, level)) => (name, Some(level.strip_prefix("level=").unwrap_or(level))),
        None => (text, None),
    };
    let (mut compression, mut levels);
    if name == LZ4HC {
        compression = Compression::new(Algorithm::Lz4);
        compression.level = LZ4HC_LEVEL;
        // Level 0 of LZ4 is the fast compressor.
        levels = Algorithm::Lz4.levels();
        levels = levels.start() + 1..=*levels.end();
    } else {
        let algorithm: Algorithm = name
            .parse()
            .map_err(|error: erofs_writer::Error| error.to_string())?;
        compression = Compression::new(algorithm);
        levels = algorithm.levels();
    }
    if let Some(level) = level {
        compression.level = level
            .parse()
            .ok()
            .filter(|level| levels.contains(level))
            .ok_or_else(|| {
                let (first, last) = (levels.start(), levels.end());
                format!("{level:?} is not a level of {name}: use {first} to {last}")
            })?;
    }
    Ok(compression)
}

fn uuid(text: &str) -> Result<Uuid, String> {
    match text {
        "nil" => return Ok(Uuid::Nil),
        "random" => return random_uuid().map_err(|error| format!("/dev/urandom: {error}")),
        _ => {}
    }
    super::super::uuid::uuid(text)
        .map(Uuid::Given)
        .map_err(|error| format!("{error}, nil or random"))
}

/// A UUID of version 4 (RFC 9562).
fn random_uuid() -> io::Result<Uuid> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(Uuid::Given(bytes))
}

/// Parses `[@][-]SECONDS[.DECIMALS]`.
fn time(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("{text:?} is not a number of seconds since 1970, such as 1700000000");
    let number = text.strip_prefix('@').unwrap_or(text);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if decimals.len() > 9 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let secs: i64 = whole.parse().map_err(|_| wrong())?;
    let nanos: u32 = format!("{decimals:0<9}").parse().map_err(|_| wrong())?;
    // The decimals of a negative number count backwards, a time's nanoseconds forwards.
    if whole.starts_with('-') && nanos > 0 {
        let secs = secs.checked_sub(1).ok_or_else(wrong)?;
        let nanos = 1_000_000_000 - nanos;
        return Ok(Timestamp { secs, nanos });
    }
    Ok(Timestamp { secs, nanos })
}

impl ImageOptions {
    /// Returns the library's options.
    pub(super) fn options(&self) -> anyhow::Result<BuildOptions> {
        let has = |feature| self.features.contains(&feature);
        if self.compress.is_none()
            && let Some(feature) = Feature::OF_COMPRESSION.into_iter().find(|it| has(*it))
        {
            let feature = feature.to_possible_value();
            let name = feature.as_ref().map_or("", |value| value.get_name());
            anyhow::bail!("--features {name} is for --compress");
        }
        let block_size = self.block_size.unwrap_or_default();
        let mut compression = self.compress;
        if let (Some(compression), Some(size)) = (&mut compression, self.cluster_size) {
            compression.cluster_size = u32::try_from(size).unwrap_or(u32::MAX);
        }
        Ok(BuildOptions {
            image: Options::default()
                .block_size(block_size)
                .compression(compression)
                .uuid(self.uuid.unwrap_or_default())
                .label(self.label.unwrap_or_default())
                .build_time(self.build_time()?)
                .inline_tails(has(Feature::InlineTails))
                .chunk_indexes(has(Feature::ChunkIndexes))
                .full_indexes(has(Feature::FullIndexes))
                .tail_packing(has(Feature::Ztailpacking))
                .fragments(if has(Feature::AllFragments) {
                    Fragments::Files
                } else if has(Feature::Fragments) {
                    Fragments::Tails
                } else {
                    Fragments::None
                })
                .dedupe_extents(has(Feature::Dedupe))
                .threads(self.threads)
                .addresses(self.addresses())
                .inodes(if has(Feature::ExtendedInodes) {
                    InodeLayout::Extended
                } else {
                    InodeLayout::Auto
                }),
            chunk_size: self
                .chunk_size
                .map(|size| chunk_size(size, block_size))
                .transpose()?,
            times: match self.mtime {
                None => Times::Kept,
                Some(time) if self.clamp_mtime => Times::Clamped(time),
                Some(time) => Times::Fixed(time),
            },
            meter: Meter::default(),
        })
    }

    fn addresses(&self) -> Addresses {
        if self.features.contains(&Feature::Bits48) {
            Addresses::Bits48
        } else {
            Addresses::Bits32
        }
    }

    /// Returns the width of addresses, if no other option was given.
    pub(super) fn nothing_but_addresses(&self) -> Option<Addresses> {
        let mut rest = self.clone();
        rest.features.retain(|feature| *feature != Feature::Bits48);
        (rest == Self::default()).then(|| self.addresses())
    }

    /// Returns the time of the environment
    /// (<https://reproducible-builds.org/specs/source-date-epoch/>), or else that of `--mtime`.
    fn build_time(&self) -> anyhow::Result<Option<i64>> {
        match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text
                .parse()
                .map(Some)
                .context("SOURCE_DATE_EPOCH is not a number of seconds"),
            Err(_) => Ok(self.mtime.map(|time| time.secs)),
        }
    }
}

fn chunk_size(size: u64, block_size: BlockSize) -> anyhow::Result<ChunkSize> {
    let block = u64::from(block_size.bytes());
    let bits = size
        .is_power_of_two()
        .then_some(size / block)
        .filter(|blocks| *blocks > 0)
        .map(|blocks| blocks.trailing_zeros());
    bits.and_then(|bits| u8::try_from(bits).ok())
        .and_then(|bits| ChunkSize::from_block_bits(bits).ok())
        .with_context(|| {
            let largest = block << 31;
            format!("--chunk-size {size}: chunks have a power of two from {block} (the block size) to {largest} bytes")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_nanoseconds_forwards() {
        let at = |secs, nanos| Ok(Timestamp { secs, nanos });
        assert_eq!(time("1700000000"), at(1_700_000_000, 0));
        assert_eq!(time("@12.5"), at(12, 500_000_000));
        assert_eq!(time("0.000000001"), at(0, 1));
        assert_eq!(time("-1.25"), at(-2, 750_000_000));
        assert_eq!(time("-0.25"), at(-1, 750_000_000));
        for wrong in ["", "@", "now", "1.2.3", "1.0123456789", "1.-5", "9e9"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn uuids_are_given_nil_or_never_the_same() {
        let given = uuid("01234567-89ab-cdef-0123-456789abcdef");
        assert!(matches!(given, Ok(Uuid::Given([1, 0x23, .., 0xef]))));
        assert_eq!(uuid("nil"), Ok(Uuid::Nil));
        let (one, other) = (uuid("random"), uuid("random"));
        assert_ne!(one, other);
        let Ok(Uuid::Given(bytes)) = one else {
            panic!("{one:?}");
        };
        assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (4, 2));
        assert!(uuid("0123").is_err() && uuid("").is_err());
    }

    #[test]
    fn levels_are_those_of_the_algorithm() {
        let level = |text| compression(text).map(|compression| compression.level);
        assert_eq!(level("lz4,12"), Ok(12));
        assert_eq!(level("zstd"), Ok(Algorithm::Zstd.default_level()));
        assert_eq!(level("zstd,level=7"), Ok(7));
        for (text, expected) in [("lz4hc", 9), ("lz4hc,1", 1), ("lz4hc,level=12", 12)] {
            assert_eq!(level(text), Ok(expected));
            let algorithm = compression(text).map(|compression| compression.algorithm);
            assert_eq!(algorithm, Ok(Algorithm::Lz4));
        }
        for (wrong, reason) in [
            ("zstd,0", "1 to 22"),
            ("lz4hc,0", "lz4hc: use 1 to 12"),
            ("lz4hc,level=13", "1 to 12"),
            ("lzma,", "0 to 9"),
            ("xz", "deflate"),
        ] {
            assert!(
                level(wrong).is_err_and(|error| error.contains(reason)),
                "{wrong}"
            );
        }
    }

    #[test]
    fn chunks_are_powers_of_two_of_blocks() {
        let bits = |size| chunk_size(size, BlockSize::B4096).map(ChunkSize::block_bits);
        assert_eq!(bits(4096).ok(), Some(0));
        assert_eq!(bits(1 << 20).ok(), Some(8));
        for wrong in [0, 512, 12_288, 1 << 50] {
            assert!(bits(wrong).is_err(), "{wrong}");
        }
    }
}
