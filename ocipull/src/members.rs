//! Locates the members of a tar archive in one scan over the headers. Bodies are skipped.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};

use blockbox_tar::{Error, Limits, Map, Reader, Source, What};

/// Far more than any image has: one member for each blob and a few beside them.
const LIMITS: Limits = Limits {
    entries: 1 << 20,
    extended_header_bytes: 1 << 20,
    file_bytes: 1 << 44,
    sparse_ranges: 1 << 16,
};

/// A member of an archive.
#[derive(Debug)]
pub(crate) enum Member {
    /// A regular file.
    File(Body),
    /// A symlink or hard link, by the name of its target.
    Link(String),
    /// A directory, a device, or a link out of the archive.
    Other,
}

/// Where a file's bytes lie.
#[derive(Debug)]
pub(crate) struct Body {
    /// The archive offset of the first stored byte.
    pub(crate) offset: u64,
    /// The file's size, and which ranges of it are stored, one after the other.
    pub(crate) map: Map,
}

/// The members of the archive `file`, by name. Where a name occurs twice, the last counts, as when
/// an archive is unpacked.
pub(crate) fn scan(file: &File) -> Result<HashMap<String, Member>, Error> {
    // A file that was just written stands at its end.
    let mut start = file;
    start
        .seek(SeekFrom::Start(0))
        .map_err(|source| Error::Io { offset: 0, source })?;
    let source = Source::seeking(BufReader::with_capacity(4096, file))?;
    let mut reader = Reader::new(source, LIMITS);
    let mut members = HashMap::new();
    while let Some(entry) = reader.next(|remark| {
        tracing::debug!(offset = remark.offset, kind = ?remark.kind, "passed over in an image archive");
    })? {
        let offset = reader.source.offset();
        let stored = match &entry.what {
            What::File(map) => map.stored(),
            &What::Unknown { stored, .. } => stored,
            _ => 0,
        };
        if let Some(name) = normal("", &String::from_utf8_lossy(&entry.path)) {
            let member = member(&name, entry.what, offset);
            members.insert(name, member);
        }
        reader.source.skip(stored)?;
        reader.source.padding(stored)?;
    }
    Ok(members)
}

fn member(name: &str, what: What, offset: u64) -> Member {
    let link = |folder: &str, target: &[u8]| {
        let target = String::from_utf8_lossy(target);
        match normal(folder, &target) {
            Some(target) => Member::Link(target),
            None => Member::Other,
        }
    };
    match what {
        What::File(map) => Member::File(Body { offset, map }),
        // `docker save` before version 25 writes a layer that images share once, and links to it.
        What::Symlink(target) => {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            link(folder, &target)
        }
        What::HardLink(target) => link("", &target),
        _ => Member::Other,
    }
}

/// `path` as seen from `folder`, without `.` and `..`; `None` if it climbs above the archive's
/// root.
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
