//! Compressions of layers and archives: detection and decoding.

use std::io::{self, BufRead, Read};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        }
    }

    /// Whether this build can decompress it.
    pub(crate) fn is_supported(self) -> bool {
        match self {
            Self::None | Self::Gzip => true,
            Self::Zstd => cfg!(feature = "zstd"),
            Self::Xz => cfg!(feature = "xz"),
            Self::Bzip2 => cfg!(feature = "bzip2"),
        }
    }

    /// Detects the compression by the first bytes of a stream: one of the four that `docker load`
    /// reads.
    pub(crate) fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // RFC 8878: a frame, or a skippable frame, whose first byte is 0x50 to 0x5f.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // Level, then the magic of a block or of the end: a tar may begin with a file called
            // "BZh".
            [b'B', b'Z', b'h', b'1'..=b'9', magic @ ..]
                if magic.starts_with(&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59])
                    || magic.starts_with(&[0x17, 0x72, 0x45, 0x38, 0x50, 0x90]) =>
            {
                Self::Bzip2
            }
            _ => Self::None,
        }
    }
}

/// The type of a layer by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerType {
    Tar(Compression),
    /// An EROFS image, plain or in zstd frames.
    Erofs(Compression),
    /// "Non-distributable": available only from the URLs in its descriptor.
    Foreign,
    Unknown,
}

impl LayerType {
    pub(crate) fn of(media_type: &str) -> Self {
        let (base, compression) = match media_type.rsplit_once(['+', '.']) {
            Some((base, "gzip")) => (base, Compression::Gzip),
            Some((base, "zstd")) => (base, Compression::Zstd),
            // Not in any specification. Docker detects these by their bytes.
            Some((base, "xz")) => (base, Compression::Xz),
            Some((base, "bzip2")) => (base, Compression::Bzip2),
            _ => (media_type, Compression::None),
        };
        match base {
            // The second is of later drafts.
            crate::EROFS_LAYER | "application/vnd.erofs" => match compression {
                Compression::None | Compression::Zstd => Self::Erofs(compression),
                _ => Self::Unknown,
            },
            // The media type that containerd 2.1 uses for an EROFS image.
            other if other.ends_with(".erofs") && compression == Compression::None => {
                Self::Erofs(compression)
            }
            // Go knows no difference between an empty one and none.
            "" if media_type.is_empty() => Self::Tar(Compression::None),
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Self::Tar(compression),
            "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Self::Foreign,
            _ => Self::Unknown,
        }
    }
}

/// The uncompressed bytes of a stream: of all its gzip members, zstd frames, xz or bzip2 streams,
/// to the end of it.
pub(crate) enum Decoder<R: BufRead> {
    /// The stream is not compressed.
    None(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::stream::read::Decoder<'static, R>),
    #[cfg(feature = "xz")]
    Xz(Box<lzma_rust2::XzReader<R>>),
    #[cfg(feature = "bzip2")]
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<R>>),
}

/// The most memory that an xz stream may ask for, in KiB: `xz -9` asks for 65 MiB, and the format
/// allows 4 GiB.
#[cfg(feature = "xz")]
const XZ_MEMORY_KIB: u32 = 192 << 10;

impl<R: BufRead> Decoder<R> {
    pub(crate) fn new(compression: Compression, input: R) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(input),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            // The window, and so the memory, is at most libzstd's default of 128 MiB.
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd(zstd::stream::read::Decoder::with_buffer(input)?),
            #[cfg(feature = "xz")]
            Compression::Xz => Self::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(
                input,
                true,
                XZ_MEMORY_KIB,
            ))),
            #[cfg(feature = "bzip2")]
            Compression::Bzip2 => Self::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(input))),
            #[allow(
                unreachable_patterns,
                reason = "all of them are there with every feature"
            )]
            _ => return Err(io::ErrorKind::Unsupported.into()),
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            #[cfg(feature = "zstd")]
            Self::Zstd(decoder) => decoder.read(buffer),
            #[cfg(feature = "xz")]
            Self::Xz(decoder) => decoder.read(buffer),
            #[cfg(feature = "bzip2")]
            Self::Bzip2(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_of_layers_are_those_of_oci_and_docker() {
        use LayerType::*;
        for (media_type, expected) in [
            (
                "application/vnd.oci.image.layer.v1.tar",
                Tar(Compression::None),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Tar(Compression::Gzip),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Tar(Compression::Zstd),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar",
                Tar(Compression::None),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Tar(Compression::Gzip),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                Tar(Compression::Zstd),
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                Foreign,
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                Foreign,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+xz",
                Tar(Compression::Xz),
            ),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", Unknown),
            ("application/vnd.erofs.layer.v1", Erofs(Compression::None)),
            (
                "application/vnd.erofs.layer.v1+zstd",
                Erofs(Compression::Zstd),
            ),
            ("application/vnd.erofs.layer.v1+gzip", Unknown),
            ("application/vnd.erofs", Erofs(Compression::None)),
            ("application/vnd.erofs+zstd", Erofs(Compression::Zstd)),
            ("application/vnd.erofs+gzip", Unknown),
            (
                "application/vnd.oci.image.layer.v1.erofs",
                Erofs(Compression::None),
            ),
            ("application/vnd.oci.empty.v1+json", Unknown),
            ("", Tar(Compression::None)),
            ("+gzip", Unknown),
        ] {
            assert_eq!(LayerType::of(media_type), expected, "{media_type}");
        }
    }
}
