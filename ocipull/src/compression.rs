//! Which compression a layer has, and undoing it.

use std::io::{self, BufRead, Read};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// What the first bytes say. Compressions that no layer may have count as none: a tar does not begin like that.
    pub(crate) fn sniff(start: &[u8]) -> Self {
        match compressed(start) {
            Some("gzip") => Self::Gzip,
            Some("zstd") => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// The compression that a file with these first bytes has, if it has one.
pub(crate) fn compressed(start: &[u8]) -> Option<&'static str> {
    match start {
        [0x1f, 0x8b, ..] => Some("gzip"),
        // RFC 8878: a frame, or a skippable frame, whose first byte is 0x50 to 0x5f.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some("zstd"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', ..] => Some("xz"),
        _ => None,
    }
}

/// What a layer's media type says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerType {
    Tar(Compression),
    /// Not to be distributed; to be had elsewhere.
    Foreign,
    Unknown,
}

impl LayerType {
    pub(crate) fn of(media_type: &str) -> Self {
        let (base, compression) = match media_type.rsplit_once(['+', '.']) {
            Some((base, "gzip")) => (base, Compression::Gzip),
            Some((base, "zstd")) => (base, Compression::Zstd),
            _ => (media_type, Compression::None),
        };
        match base {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Self::Tar(compression),
            "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Self::Foreign,
            _ => Self::Unknown,
        }
    }
}

/// The uncompressed bytes of a stream of gzip members or zstd frames, one after the other to the end of it.
pub(crate) enum Decoder<R: BufRead> {
    /// There is nothing to undo.
    None(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
}

impl<R: BufRead> Decoder<R> {
    pub(crate) fn new(compression: Compression, input: R) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(input),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            // The window, and so the memory, is at most libzstd's default of 128 MiB.
            Compression::Zstd => Self::Zstd(zstd::stream::read::Decoder::with_buffer(input)?),
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
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
            ("application/vnd.oci.image.layer.v1.tar+encrypted", Unknown),
            ("application/vnd.oci.empty.v1+json", Unknown),
            ("", Unknown),
        ] {
            assert_eq!(LayerType::of(media_type), expected, "{media_type}");
        }
    }
}
