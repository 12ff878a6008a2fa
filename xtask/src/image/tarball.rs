//! Writes an overlay's upper directory as a layer tar, as container engines do: ustar headers, PAX
//! records for what those cannot hold, AUFS whiteouts for removed files.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// The largest owner and the largest size in a ustar header.
const MAX_OWNER: u64 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// Writes the tree `upper` to `out`. Returns the number of entries.
pub(super) fn write(upper: &Path, out: impl Write) -> Result<u64> {
    let mut tarball = Tarball {
        builder: Builder::new(out),
        first_names: HashMap::new(),
        entries: 0,
    };
    tarball.directory(upper, b"")?;
    tarball.builder.into_inner()?.flush()?;
    Ok(tarball.entries)
}

struct Tarball<W: Write> {
    builder: Builder<W>,
    /// The first name of each inode with several names, by inode number.
    first_names: HashMap<u64, Vec<u8>>,
    entries: u64,
}

impl<W: Write> Tarball<W> {
    /// Writes the contents of the directory `dir`, whose name in the tar is `name` (empty, or with
    /// a slash at its end).
    fn directory(&mut self, dir: &Path, name: &[u8]) -> Result<()> {
        let mut entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = [name, entry.file_name().as_bytes()].concat();
            self.entry(&path, name)
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: Vec<u8>) -> Result<()> {
        let meta = fs::symlink_metadata(path)?;
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            let start = name
                .iter()
                .rposition(|&byte| byte == b'/')
                .map_or(0, |slash| slash + 1);
            let (parent, removed) = name.split_at(start);
            return self.marker(&[parent, b".wh.", removed].concat());
        }
        let xattrs = xattrs(path)?;
        if kind.is_dir() {
            let name = [&name, &b"/"[..]].concat();
            self.put(&name, &meta, EntryType::Directory, b"", &xattrs)?;
            if rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut [0; 8]).is_ok() {
                self.marker(&[&name, &b".wh..wh..opq"[..]].concat())?;
            }
            return self.directory(path, &name);
        }
        if meta.nlink() > 1 {
            if let Some(first) = self.first_names.get(&meta.ino()) {
                let first = first.clone();
                return self.put(&name, &meta, EntryType::Link, &first, &[]);
            }
            self.first_names.insert(meta.ino(), name.clone());
        }
        if kind.is_symlink() {
            let target = fs::read_link(path)?.into_os_string().into_vec();
            self.put(&name, &meta, EntryType::Symlink, &target, &xattrs)
        } else if kind.is_file() {
            self.file(path, &name, &meta, &xattrs)
        } else if kind.is_fifo() {
            self.put(&name, &meta, EntryType::Fifo, b"", &xattrs)
        } else if kind.is_char_device() {
            self.put(&name, &meta, EntryType::Char, b"", &xattrs)
        } else if kind.is_block_device() {
            self.put(&name, &meta, EntryType::Block, b"", &xattrs)
        } else {
            // A tar cannot hold sockets.
            Ok(())
        }
    }

    /// Writes an empty file as a whiteout or opaque marker.
    fn marker(&mut self, name: &[u8]) -> Result<()> {
        let mut header = blank();
        header.set_mode(0o600);
        header.set_entry_type(EntryType::Regular);
        self.append(header, name, b"", Vec::new(), &mut std::io::empty())
    }

    fn put(
        &mut self,
        name: &[u8],
        meta: &Metadata,
        kind: EntryType,
        target: &[u8],
        xattrs: &[(String, Vec<u8>)],
    ) -> Result<()> {
        let (mut header, records) = attributes(meta, xattrs);
        header.set_entry_type(kind);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // The type differs between systems.
            let device = meta.rdev() as rustix::fs::Dev;
            header.set_device_major(rustix::fs::major(device))?;
            header.set_device_minor(rustix::fs::minor(device))?;
        }
        self.append(header, name, target, records, &mut std::io::empty())
    }

    fn file(
        &mut self,
        path: &Path,
        name: &[u8],
        meta: &Metadata,
        xattrs: &[(String, Vec<u8>)],
    ) -> Result<()> {
        let (mut header, mut records) = attributes(meta, xattrs);
        header.set_entry_type(EntryType::Regular);
        header.set_size(meta.size());
        if meta.size() > MAX_SIZE {
            records.push(("size".into(), meta.size().to_string().into_bytes()));
        }
        self.append(header, name, b"", records, &mut File::open(path)?)
    }

    fn append(
        &mut self,
        mut header: Header,
        name: &[u8],
        target: &[u8],
        mut records: Vec<(String, Vec<u8>)>,
        data: &mut dyn std::io::Read,
    ) -> Result<()> {
        let ustar = header.as_ustar_mut().context("made as ustar")?;
        if !fill(&mut ustar.name, name) {
            records.push(("path".into(), name.to_vec()));
        }
        if !fill(&mut ustar.linkname, target) {
            records.push(("linkpath".into(), target.to_vec()));
        }
        header.set_cksum();
        self.builder.append_pax_extensions(
            records
                .iter()
                .map(|(key, value)| (key.as_str(), &value[..])),
        )?;
        self.builder.append(&header, data)?;
        self.entries += 1;
        Ok(())
    }
}

/// Copies as much of `value` into `field` as fits. Returns `false` if a PAX record is needed.
fn fill(field: &mut [u8], value: &[u8]) -> bool {
    let fits = value.len().min(field.len());
    field[..fits].copy_from_slice(&value[..fits]);
    fits == value.len() && value.is_ascii()
}

/// Returns a header whose numbers are all 0.
fn blank() -> Header {
    let mut header = Header::new_ustar();
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Returns a header with the attributes of `meta`, and PAX records for those it cannot hold.
fn attributes(meta: &Metadata, xattrs: &[(String, Vec<u8>)]) -> (Header, Vec<(String, Vec<u8>)>) {
    let mut header = blank();
    let mut records = Vec::new();
    header.set_mode(meta.mode() & 0o7777);
    for (key, owner) in [("uid", meta.uid()), ("gid", meta.gid())] {
        let owner = u64::from(owner);
        let fits = owner <= MAX_OWNER;
        let stored = if fits { owner } else { 0 };
        match key {
            "uid" => header.set_uid(stored),
            _ => header.set_gid(stored),
        }
        if !fits {
            records.push((key.to_owned(), owner.to_string().into_bytes()));
        }
    }
    header.set_mtime(meta.mtime().max(0).unsigned_abs());
    if meta.mtime() < 0 || meta.mtime_nsec() != 0 {
        let time = pax_time(meta.mtime(), meta.mtime_nsec());
        records.push(("mtime".to_owned(), time.into_bytes()));
    }
    for (name, value) in xattrs {
        records.push((format!("SCHILY.xattr.{name}"), value.clone()));
    }
    (header, records)
}

/// Formats a time for PAX: a decimal number, so the fraction of a negative time counts away from
/// zero.
fn pax_time(seconds: i64, nanoseconds: i64) -> String {
    let (sign, seconds, nanoseconds) = match (seconds < 0, nanoseconds) {
        (false, _) => ("", seconds, nanoseconds),
        (true, 0) => ("-", -seconds, 0),
        (true, _) => ("-", -(seconds + 1), 1_000_000_000 - nanoseconds),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns the extended attributes of `path` that belong to the image, sorted.
fn xattrs(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; 1 << 16];
    let size = rustix::fs::llistxattr(path, &mut names[..])?;
    let mut found = Vec::new();
    for name in names[..size].split(|&byte| byte == 0) {
        let name = String::from_utf8(name.to_vec())?;
        if name.is_empty() || name.starts_with("trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 1 << 16];
        let size = rustix::fs::lgetxattr(path, &name, &mut value[..])?;
        value.truncate(size);
        found.push((name, value));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_numbers() {
        assert_eq!(pax_time(5, 0), "5");
        assert_eq!(pax_time(100, 10_000_000), "100.01");
        assert_eq!(pax_time(-1, 500_000_000), "-0.5");
        assert_eq!(pax_time(-3, 250_000_000), "-2.75");
        assert_eq!(pax_time(-30, 0), "-30");
    }

    #[test]
    fn long_names_links_and_times_survive_a_reader() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let long = "n".repeat(200);
        fs::write(dir.path().join(&long), "contents").expect("a file");
        fs::hard_link(dir.path().join(&long), dir.path().join("zz")).expect("a link");
        std::os::unix::fs::symlink(&long, dir.path().join("a")).expect("a symlink");
        let mut bytes = Vec::new();
        assert_eq!(write(dir.path(), &mut bytes).expect("a tar"), 3);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().expect("entries") {
            let entry = entry.expect("an entry");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
            seen.push((
                text(&entry.path_bytes()),
                entry.link_name_bytes().map(|link| text(&link)),
                entry.header().entry_type(),
            ));
        }
        assert_eq!(
            seen,
            [
                ("a".to_owned(), Some(long.clone()), EntryType::Symlink),
                (long.clone(), None, EntryType::Regular),
                ("zz".to_owned(), Some(long), EntryType::Link),
            ]
        );
    }
}
