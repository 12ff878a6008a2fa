//! Formats that files have which are taken for archives by mistake.

/// What a file whose first bytes are `start` is, if it is of a known format that is no tar archive.
///
/// 33 KiB are enough for all formats.
pub fn known_format(start: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| {
        start
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    let named = FORMATS
        .iter()
        .find(|(offset, magic, _)| at(*offset, magic))
        .map(|(_, _, name)| *name);
    named
        .or_else(|| {
            is_lzma(start).then_some("compressed with LZMA (.lzma), which is not supported")
        })
        .or_else(|| is_markup(start).then_some("a web page"))
}

/// Where a format has its magic bytes, and what a file of it is.
const FORMATS: [(usize, &[u8], &str); 33] = [
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"BZh", "compressed with bzip2"),
    (
        0,
        b"\x04\x22\x4d\x18",
        "compressed with lz4, which is not supported",
    ),
    (
        0,
        b"\x02\x21\x4c\x18",
        "compressed with lz4 (legacy), which is not supported",
    ),
    (0, b"LZIP", "compressed with lzip, which is not supported"),
    (
        0,
        b"\x89LZO\0\r\n\x1a\n",
        "compressed with lzop, which is not supported",
    ),
    (
        0,
        b"\x1f\x9d",
        "compressed with compress (.Z), which is not supported",
    ),
    (
        0,
        b"\xff\x06\0\0sNaPpY",
        "compressed with snappy, which is not supported",
    ),
    (
        0,
        b"\xce\xb2\xcf\x81",
        "compressed with brotli, which is not supported",
    ),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a rar archive"),
    (0, b"MSCF", "a cabinet archive"),
    (0, b"070701", "a cpio archive"),
    (0, b"070702", "a cpio archive"),
    (0, b"070707", "a cpio archive"),
    (0, b"\xc7\x71", "a cpio archive"),
    (0, b"!<arch>\n", "an ar archive, as .deb packages are"),
    (0, b"\xed\xab\xee\xdb", "an rpm package"),
    (0, b"hsqs", "a squashfs image"),
    (0, b"QFI\xfb", "a qcow2 disk"),
    (0, b"KDMV", "a VMDK disk"),
    (0, b"# Disk DescriptorFile", "the descriptor of a VMDK disk"),
    (0, b"vhdxfile", "a VHDX disk"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"\x7fELF", "a program"),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS image"),
    (1080, b"\x53\xef", "an ext file system"),
    (32769, b"CD001", "an ISO 9660 image"),
    (512, b"EFI PART", "a disk with a GPT"),
];

/// Whether the header of `.lzma` is there, which has no magic bytes: the usual properties, the size
/// of a dictionary, and the size of the contents or that it is unknown.
fn is_lzma(start: &[u8]) -> bool {
    let Some(([0x5d, dictionary @ ..], size)) = start
        .split_first_chunk::<5>()
        .and_then(|(head, rest)| Some((head, rest.first_chunk::<8>()?)))
    else {
        return false;
    };
    let dictionary = u32::from_le_bytes(*dictionary);
    let size = u64::from_le_bytes(*size);
    // 2^n or 2^n + 2^(n-1), as xz too demands to tell such a file.
    let usual =
        dictionary.is_power_of_two() || (dictionary % 3 == 0 && (dictionary / 3).is_power_of_two());
    usual && dictionary >= 1 << 12 && (size == u64::MAX || size < 1 << 38)
}

/// Whether this is an answer of a server that was stored as a file.
fn is_markup(start: &[u8]) -> bool {
    let text = start.trim_ascii_start();
    [&b"<!doctype html"[..], b"<html"].iter().any(|tag| {
        text.get(..tag.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(tag))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_at_all_are_of_no_format() {
        for start in [&b""[..], b"\x5d", b"PK", &[0; 40_000], &[0x5d; 40_000]] {
            assert_eq!(known_format(start), None);
        }
    }

    #[test]
    fn lzma_is_known_by_a_plausible_header() {
        let header = |dictionary: u32, size: u64| {
            let (dictionary, size) = (dictionary.to_le_bytes(), size.to_le_bytes());
            [&[0x5d][..], &dictionary, &size, b"\0more"].concat()
        };
        for (dictionary, size) in [(1 << 23, u64::MAX), (3 << 20, 10_240), (1 << 16, 0)] {
            assert!(known_format(&header(dictionary, size)).is_some());
        }
        for (dictionary, size) in [(1 << 23, 1 << 40), (5 << 20, 1), (1, 1)] {
            assert_eq!(known_format(&header(dictionary, size)), None);
        }
    }

    #[test]
    fn a_stored_web_page_is_known_in_any_case() {
        for page in [&b"<!DOCTYPE html><p>404"[..], b"\n <HTML lang=en>"] {
            assert_eq!(known_format(page), Some("a web page"));
        }
        assert_eq!(known_format(b"<htm"), None);
    }
}
