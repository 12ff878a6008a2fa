//! Where the members of a tar archive lie: one scan over the headers, and no data read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use tar::{EntryType, Header, PaxExtensions};

const BLOCK: u64 = 512;

/// The longest name, or set of extended attributes, that is read: a header can claim any length.
const MAX_EXTENSION: u64 = 1 << 20;

/// What a name in an archive stands for.
#[derive(Debug)]
pub(crate) enum Member {
    /// Bytes of the archive.
    File { offset: u64, size: u64 },
    /// A symlink or hard link, by the name it leads to.
    Link(String),
    /// Something that has no bytes in one piece.
    Other,
}

/// What precedes a header and overrides it.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

/// The members of the archive `file`, by name.
pub(crate) fn scan(mut file: File) -> io::Result<HashMap<String, Member>> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut members = HashMap::new();
    let mut extension = Extension::default();
    let mut at = 0;
    while at < end {
        file.seek(SeekFrom::Start(at))?;
        let mut header = Header::new_old();
        file.read_exact(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            break;
        }
        check(&header)?;
        let size = match extension.size {
            Some(size) => size,
            None => header.entry_size()?,
        };
        let offset = at + BLOCK;
        let past = offset.checked_add(size).filter(|&past| past <= end);
        let past = past.ok_or_else(|| invalid("a member goes past the end of the archive"))?;
        match header.entry_type() {
            EntryType::GNULongName => extension.path = Some(text(&mut file, size)?),
            EntryType::GNULongLink => extension.link = Some(text(&mut file, size)?),
            EntryType::XHeader => extension.read_pax(&body(&mut file, size)?)?,
            EntryType::XGlobalHeader => {}
            _ => {
                let extension = std::mem::take(&mut extension);
                if let Some((name, member)) = member(&header, extension, offset, size) {
                    members.insert(name, member);
                }
            }
        }
        at = past.next_multiple_of(BLOCK);
    }
    Ok(members)
}

/// Checks a header's sum, the one thing that tells a header from anything else.
fn check(header: &Header) -> io::Result<()> {
    const SUM: std::ops::Range<usize> = 148..156;
    let bytes = header.as_bytes().iter().enumerate();
    let sum: u32 = bytes
        .map(|(at, &byte)| u32::from(if SUM.contains(&at) { b' ' } else { byte }))
        .sum();
    if header.cksum()? == sum {
        Ok(())
    } else {
        Err(invalid("a header with a wrong checksum"))
    }
}

fn body(file: &mut File, size: u64) -> io::Result<Vec<u8>> {
    if size > MAX_EXTENSION {
        return Err(invalid("a name or a set of attributes over 1 MiB"));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A name, which ends at its first NUL.
fn text(file: &mut File, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = body(file, size)?;
    if let Some(nul) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(nul);
    }
    Ok(bytes)
}

impl Extension {
    fn read_pax(&mut self, bytes: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(bytes) {
            let record = record?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| invalid("a size that is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

fn member(
    header: &Header,
    extension: Extension,
    offset: u64,
    size: u64,
) -> Option<(String, Member)> {
    let path = extension
        .path
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let name = normal("", &String::from_utf8_lossy(&path))?;
    let link = extension
        .link
        .or_else(|| Some(header.link_name_bytes()?.into_owned()));
    let target = |folder| {
        let target = normal(folder, &String::from_utf8_lossy(&link?))?;
        Some(Member::Link(target))
    };
    let member = match header.entry_type() {
        _ if extension.sparse => Member::Other,
        EntryType::Regular | EntryType::Continuous => Member::File { offset, size },
        // `docker save` before version 25 writes a layer that images share once, and links to it.
        EntryType::Symlink => {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            target(folder).unwrap_or(Member::Other)
        }
        EntryType::Link => target("").unwrap_or(Member::Other),
        _ => Member::Other,
    };
    Some((name, member))
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// `path` as seen from `folder`, without `.` and `..`; `None` where it climbs above the archive's root.
pub(crate) fn normal(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
