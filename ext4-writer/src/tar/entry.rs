//! An entry's headers.

use std::io::{Read, Seek};

use tar::EntryType;

use super::Stored;
use super::sparse::Sparse;
use crate::{Device, EntryProblem, Error, Metadata, Timestamp};

const XATTR: &[u8] = b"SCHILY.xattr.";

#[derive(Debug)]
pub(super) struct Entry {
    /// As the archive has it.
    pub(super) path: Vec<u8>,
    pub(super) metadata: Metadata,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Directory,
    File(Stored),
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Device(Device),
    Fifo,
}

impl Entry {
    pub(super) fn problem(&self, problem: EntryProblem) -> Error {
        Error::Entry {
            path: self.path.clone(),
            problem,
        }
    }
}

/// Decodes an entry, and says how its contents are stored; `None` for what is none of the tree.
pub(super) fn decode<R: Read + Seek>(
    entry: &mut tar::Entry<'_, R>,
) -> Result<Option<(Entry, Sparse)>, Error> {
    let mut path = entry.path_bytes().into_owned();
    let link = entry.link_name_bytes().map(|name| name.into_owned());
    let position = entry.raw_file_position();
    let mut sparse = Sparse::None;
    let mut size = entry.size();
    let header = entry.header().clone();
    let kind = header.entry_type();
    let failed = |path: &[u8], problem| Error::Entry {
        path: path.to_vec(),
        problem,
    };
    let invalid = |path: &[u8], what| failed(path, EntryProblem::Value(what));
    let number = |value: Result<u64, std::io::Error>, what| {
        let value = value.map_err(|_| invalid(&path, what))?;
        u32::try_from(value).map_err(|_| invalid(&path, what))
    };
    let mut metadata = Metadata {
        mode: (header.mode().map_err(|_| invalid(&path, "mode"))? & 0o7777) as u16,
        uid: number(header.uid(), "uid")?,
        gid: number(header.gid(), "gid")?,
        mtime: Timestamp {
            secs: header.mtime().map_err(|_| invalid(&path, "mtime"))? as i64,
            nanos: 0,
        },
        xattrs: Vec::new(),
    };
    let extensions = entry
        .pax_extensions()
        .map_err(|source| Error::Archive { source })?;
    for extension in extensions.into_iter().flatten() {
        let extension = extension.map_err(|source| Error::Archive { source })?;
        let (key, value) = (extension.key_bytes(), extension.value_bytes());
        match key {
            b"uid" => metadata.uid = parse(value).ok_or_else(|| invalid(&path, "uid"))?,
            b"gid" => metadata.gid = parse(value).ok_or_else(|| invalid(&path, "gid"))?,
            b"mtime" => metadata.mtime = time(value).ok_or_else(|| invalid(&path, "mtime"))?,
            b"GNU.sparse.name" => path = value.to_vec(),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                size = parse(value).ok_or_else(|| invalid(&path, "size"))?;
                sparse.is_pax();
            }
            b"GNU.sparse.major" => sparse.precedes_data(),
            b"GNU.sparse.map" => {
                let numbers = value.split(|&byte| byte == b',').map(parse);
                let numbers: Option<Vec<u64>> = numbers.collect();
                let numbers = numbers.ok_or_else(|| failed(&path, EntryProblem::Sparse))?;
                sparse.extend(numbers);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let number = parse(value).ok_or_else(|| failed(&path, EntryProblem::Sparse))?;
                sparse.extend([number]);
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    metadata.xattrs.retain(|(earlier, _)| earlier != name);
                    metadata.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    let device = || -> Result<(u32, u32), Error> {
        let part = |value: std::io::Result<Option<u32>>| {
            let value = value.map_err(|_| invalid(&path, "device"))?;
            value.ok_or_else(|| invalid(&path, "device"))
        };
        Ok((part(header.device_major())?, part(header.device_minor())?))
    };
    let target = || link.clone().ok_or_else(|| invalid(&path, "link name"));
    let what = match kind {
        // Before ustar, a directory was a file whose name ends with a slash.
        EntryType::Regular if path.ends_with(b"/") => What::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            if kind == EntryType::GNUSparse {
                sparse = Sparse::Header;
            }
            What::File(Stored {
                position,
                size,
                ranges: Vec::new(),
            })
        }
        EntryType::Directory => What::Directory,
        EntryType::Link => What::HardLink(target()?),
        EntryType::Symlink => What::Symlink(target()?),
        EntryType::Char => {
            let (major, minor) = device()?;
            What::Device(Device::Char { major, minor })
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            What::Device(Device::Block { major, minor })
        }
        EntryType::Fifo => What::Fifo,
        EntryType::XGlobalHeader | EntryType::XHeader => return Ok(None),
        // Volume labels and what is left of a file that began in another volume.
        kind if matches!(kind.as_byte(), b'V' | b'M' | b'N') => return Ok(None),
        kind => return Err(failed(&path, EntryProblem::Type(kind.as_byte()))),
    };
    let entry = Entry {
        path,
        metadata,
        what,
    };
    Ok(Some((entry, sparse)))
}

fn parse<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Seconds with a fraction; before 1970, both are negative.
fn time(value: &[u8]) -> Option<Timestamp> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let whole = parts.next()?;
    let mut fraction = parts.next().unwrap_or(b"").to_vec();
    if !whole.iter().chain(&fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let secs: i64 = parse(whole)?;
    fraction.resize(9, b'0');
    let nanos: u32 = parse(&fraction)?;
    Some(match (negative, nanos) {
        (false, nanos) => Timestamp { secs, nanos },
        (true, 0) => Timestamp {
            secs: secs.checked_neg()?,
            nanos: 0,
        },
        (true, nanos) => Timestamp {
            secs: secs.checked_neg()?.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_may_be_before_1970() {
        for (text, secs, nanos) in [
            ("12", 12, 0),
            ("12.5", 12, 500_000_000),
            ("-1", -1, 0),
            ("-0.25", -1, 750_000_000),
            ("1.0123456789", 1, 12_345_678),
        ] {
            assert_eq!(time(text.as_bytes()), Some(Timestamp { secs, nanos }));
        }
        for text in ["", ".", "1.x", "--1", "1e3"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }
}
