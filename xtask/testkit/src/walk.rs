//! Everything that programs can see of a directory tree, in a comparable and readable form.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The type of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Directory,
    /// With the size in bytes and a digest of the contents.
    File {
        size: u64,
        digest: u64,
    },
    Symlink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
}

/// A name in a tree, with everything that `lstat`, `readlink`, `read` and `getxattr` return for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The type of the file.
    pub kind: Kind,
    /// The permission bits, `0o7777` at most.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// For a non-directory with several names in the tree, the first of them in byte order.
    pub first_name: Option<Vec<u8>>,
}

/// A tree: its entries by path relative to the root, whose path is empty. No path begins with `/`.
pub type Walk = BTreeMap<Vec<u8>, Entry>;

/// Converts xattrs to those that a program in the sandbox sees: `fsmeta` is the lower folder of the
/// sandbox's overlay, which shows `trusted.overlay.overlay.x` as `trusted.overlay.x`.
pub fn unescape_xattrs(walk: &mut Walk) {
    for entry in walk.values_mut() {
        entry.xattrs = std::mem::take(&mut entry.xattrs)
            .into_iter()
            .map(
                |(name, value)| match name.strip_prefix(b"trusted.overlay.overlay.") {
                    Some(rest) => ([b"trusted.overlay.", rest].concat(), value),
                    None => (name, value),
                },
            )
            .collect();
    }
}

/// Walks the tree under `root`, without crossing into other mounts.
pub fn walk(root: &Path) -> io::Result<Walk> {
    let mut found = Walk::new();
    let mut links: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
    let device = fs::symlink_metadata(root)?.dev();
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(OsStr::from_bytes(&path));
        let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", full.display()));
        let meta = fs::symlink_metadata(&full).map_err(at)?;
        let kind = kind(&full, &meta).map_err(at)?;
        if kind == Kind::Directory && meta.dev() == device {
            for entry in fs::read_dir(&full).map_err(at)? {
                let name = entry.map_err(at)?.file_name().into_vec();
                pending.push(if path.is_empty() {
                    name
                } else {
                    [&path[..], b"/", &name].concat()
                });
            }
        } else if kind != Kind::Directory && meta.nlink() > 1 {
            links
                .entry((meta.dev(), meta.ino()))
                .or_default()
                .push(path.clone());
        }
        let entry = Entry {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), meta.mtime_nsec() as u32),
            xattrs: xattrs(&full).map_err(at)?,
            first_name: None,
        };
        found.insert(path, entry);
    }
    for mut names in links.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            found.get_mut(name).expect("walked").first_name = Some(names[0].clone());
        }
    }
    Ok(found)
}

fn kind(path: &Path, meta: &fs::Metadata) -> io::Result<Kind> {
    let kind = meta.file_type();
    // The type differs between systems.
    let device = meta.rdev() as rustix::fs::Dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Ok(if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.into_os_string().into_vec())
    } else if kind.is_char_device() {
        Kind::CharDevice { major, minor }
    } else if kind.is_block_device() {
        Kind::BlockDevice { major, minor }
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else {
        let (size, digest) = digest(&mut File::open(path)?)?;
        if size != meta.len() {
            return Err(io::Error::other(format!(
                "{size} bytes read, stat says {}",
                meta.len()
            )));
        }
        Kind::File { size, digest }
    })
}

/// Returns the length of `data` and a digest of it (SipHash with fixed keys, so equal contents give
/// equal digests).
pub fn digest(data: &mut impl Read) -> io::Result<(u64, u64)> {
    use std::hash::Hasher;
    #[expect(deprecated, reason = "the one hasher of std whose keys are fixed")]
    let mut hasher = std::hash::SipHasher::new_with_keys(0x626c_6f63_6b62_6f78, 0);
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        let n = data.read(&mut buffer)?;
        if n == 0 {
            return Ok((size, hasher.finish()));
        }
        hasher.write(&buffer[..n]);
        size += n as u64;
    }
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 1 << 16];
    let n = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(n) => n,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut found = BTreeMap::new();
    for name in names[..n]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 1 << 16];
        let n = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(n);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

/// Formats an entry in one line.
fn shown(entry: Option<&Entry>) -> String {
    let Some(entry) = entry else {
        return "nothing".to_owned();
    };
    let kind = match &entry.kind {
        Kind::Symlink(target) => format!("-> {}", target.escape_ascii()),
        kind => format!("{kind:?}"),
    };
    let (secs, nanos) = entry.mtime;
    let mut line = format!(
        "{kind} {:04o} {}:{} {secs}+{nanos}ns",
        entry.mode, entry.uid, entry.gid
    );
    for (name, value) in &entry.xattrs {
        line += &format!(" {}={}", name.escape_ascii(), value.escape_ascii());
    }
    if let Some(name) = &entry.first_name {
        line += &format!(" linked to {}", name.escape_ascii());
    }
    line
}

/// The paths on which two walks differ, printed one per line with both sides.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference(Vec<String>);

impl Difference {
    /// Compares `ours` with the oracle's walk, `theirs`.
    pub fn between(ours: &Walk, theirs: &Walk) -> Self {
        let paths: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        let differing = paths
            .into_iter()
            .filter(|&path| ours.get(path) != theirs.get(path));
        Self(
            differing
                .map(|path| {
                    let name = path.escape_ascii();
                    let (ours, theirs) = (shown(ours.get(path)), shown(theirs.get(path)));
                    format!("/{name}\n  ours:   {ours}\n  theirs: {theirs}")
                })
                .collect(),
        )
    }

    /// Returns whether the walks are equal.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails the test if the walks differ.
    ///
    /// # Panics
    ///
    /// If the walks differ, with the first differences.
    pub fn assert_none(&self) {
        assert!(self.is_empty(), "{self:?}");
    }
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} paths differ", self.0.len())?;
        self.0
            .iter()
            .take(20)
            .try_for_each(|line| writeln!(f, "{line}"))
    }
}
