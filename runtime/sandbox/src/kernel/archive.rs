//! Extracts libkrunfw from its usual packages: the library itself, a zip (such as a Python wheel),
//! a tar, the layers of an image.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};

use blockbox_tar::{self as tar, Limits, Reader, Source, What};
use blockbox_vmm::kernel::LIBRARY;
use ocipull::Image;

use super::error::{Error, Result};
use super::zip;

/// The largest file that a library is extracted from, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 30;

/// The largest library, in bytes.
const MAX_LIBRARY: u64 = 256 << 20;

/// Limits for tars: the root of a system may have this many files.
const LIMITS: Limits = Limits {
    entries: 4 << 20,
    extended_header_bytes: 1 << 20,
    file_bytes: 1 << 44,
    sparse_ranges: 1 << 16,
};

/// Returns whether a file is the library, by its name, which may end with a version:
/// `libkrunfw.so.5.6.1`.
pub(super) fn is_library(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match name.strip_prefix(LIBRARY.as_bytes()) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"."),
        None => false,
    }
}

/// Copies the library from `file`, which is at its beginning, or from the archive in it.
pub(super) fn copy_library(file: &mut File, place: &str, output: &mut File) -> Result<()> {
    let format = |error: &io::Error| Error::Format {
        place: place.to_owned(),
        reason: reason(error),
    };
    let mut magic = [0; 4];
    let count = file.read(&mut magic).map_err(|e| format(&e))?;
    file.rewind().map_err(|e| format(&e))?;
    let found = match magic.get(..count).unwrap_or_default() {
        // ELF, and Mach-O of 64 bits.
        b"\x7fELF" | b"\xcf\xfa\xed\xfe" => {
            copy_bounded(file, output).map_err(|e| format(&e))?;
            true
        }
        b"PK\x03\x04" => {
            zip::copy_member(file, is_library, MAX_LIBRARY, output).map_err(|e| format(&e))?
        }
        _ => {
            let file = file.try_clone().map_err(|e| format(&e))?;
            let mut inflated = ocipull::decompress_bounded(file, 8 * MAX_FILE)?;
            copy_from_tar(&mut inflated, output).map_err(|e| format(&e))?
        }
    };
    match found {
        true => Ok(()),
        false => Err(Error::NoLibrary {
            place: place.to_owned(),
        }),
    }
}

/// Copies the library from the highest layer of `image` that has one.
pub(super) fn copy_from_image(image: &Image, place: &str, output: &mut File) -> Result<()> {
    for index in (0..image.layers().len()).rev() {
        let found = image.read_layer(index, |layer| {
            let found = copy_from_tar(layer, output);
            found.map_err(|error| match ocipull::Error::of(&error) {
                // The layer's own error is returned when the rest is read.
                Some(_) => ocipull::Error::Failed.into(),
                None => Error::Format {
                    place: place.to_owned(),
                    reason: reason(&error),
                },
            })
        })?;
        if found {
            return Ok(());
        }
    }
    Err(Error::NoLibrary {
        place: place.to_owned(),
    })
}

/// Formats an error and its causes, without errors that only wrap the next one.
fn reason(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.get_ref().and_then(|inner| inner.source());
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Copies the library from a tar; returns whether it has one.
fn copy_from_tar(archive: &mut impl BufRead, output: &mut File) -> io::Result<bool> {
    let mut reader = Reader::new(Source::new(archive), LIMITS);
    let failed = |error| match error {
        // If the header is invalid, its name may be any bytes.
        tar::Error::Entry {
            offset: 0,
            problem: tar::Problem::Checksum,
            ..
        } => io::Error::other("unknown format"),
        other => io::Error::other(other),
    };
    while let Some(entry) = reader.next(|_| ()).map_err(failed)? {
        let stored = match &entry.what {
            What::File(map) => map.stored(),
            &What::Unknown { stored, .. } => stored,
            _ => 0,
        };
        let dense = matches!(&entry.what, What::File(map) if map.size == stored);
        if dense && is_library(&entry.path) {
            let copied = copy_bounded(&mut (&mut reader.source).take(stored), output);
            if let Some(failure) = reader.source.take_failure() {
                return Err(failed(failure));
            }
            return match copied? == stored {
                true => Ok(true),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        reader.source.skip(stored).map_err(io::Error::other)?;
        reader.source.padding(stored).map_err(io::Error::other)?;
    }
    Ok(false)
}

fn copy_bounded(input: &mut impl Read, output: &mut impl Write) -> io::Result<u64> {
    let mut input = BufReader::new(input).take(MAX_LIBRARY + 1);
    match io::copy(&mut input, output)? {
        copied if copied > MAX_LIBRARY => Err(io::Error::other(format!(
            "the library is larger than {MAX_LIBRARY} bytes"
        ))),
        copied => Ok(copied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_recognised_by_name_with_any_version() {
        for (path, is) in [
            (format!("usr/lib64/{LIBRARY}"), true),
            (format!("{LIBRARY}.6.1"), true),
            (format!("{LIBRARY}5"), false),
            (format!("{LIBRARY}/file"), false),
            (format!("my{LIBRARY}"), false),
        ] {
            assert_eq!(is_library(path.as_bytes()), is, "{path}");
        }
    }
}
