//! A layer tree from a folder of this host.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use fsmerge::{Attributes, DataId, Kind, Layer, LayerBuilder, Limits, Timestamp};

use crate::error::{Error, Result};

/// Reads the tree under `root`, mount points and all. `file` takes each non-empty regular file's path, contents and size, once
/// however many names it has.
///
/// # Errors
///
/// What the system refuses to show; a name that is taken is none here. A file that changes while it is read gives what
/// `file` makes of it.
pub(crate) fn read(
    root: &Path,
    mut file: impl FnMut(&Path, File, u64) -> Result<DataId>,
) -> Result<Layer> {
    let mut layer = LayerBuilder::new(&Limits::default());
    let meta = fs::metadata(root).map_err(Error::io(root))?;
    layer.set_root(attributes(root, &meta)?, false, false);
    let mut links = HashMap::new();
    let mut pending = vec![(root.to_owned(), layer.root())];
    while let Some((folder, parent)) = pending.pop() {
        let mut names: Vec<_> = fs::read_dir(&folder)
            .map_err(Error::io(&folder))?
            .map(|entry| {
                entry
                    .map(|entry| entry.file_name())
                    .map_err(Error::io(&folder))
            })
            .collect::<Result<_>>()?;
        // Files' contents are stored in this order.
        names.sort();
        let mut folders: Vec<(PathBuf, _)> = Vec::new();
        for name in names {
            let path = folder.join(&name);
            let failed = |source| Error::Folder {
                path: path.clone(),
                source: Box::new(source),
            };
            let meta = fs::symlink_metadata(&path).map_err(Error::io(&path))?;
            let link = (!meta.is_dir() && meta.nlink() > 1).then(|| (meta.dev(), meta.ino()));
            if let Some(&node) = link.and_then(|link| links.get(&link)) {
                layer.link(parent, name.as_bytes(), node).map_err(failed)?;
                continue;
            }
            let target;
            let kind = meta.file_type();
            let (major, minor) = device(meta.rdev());
            let kind = if kind.is_dir() {
                Kind::Directory {
                    opaque: false,
                    implied: false,
                }
            } else if kind.is_file() {
                let data = if meta.len() == 0 {
                    None
                } else {
                    let contents = File::open(&path).map_err(Error::io(&path))?;
                    Some(file(&path, contents, meta.len())?)
                };
                Kind::File {
                    size: meta.len(),
                    data,
                }
            } else if kind.is_symlink() {
                target = fs::read_link(&path).map_err(Error::io(&path))?;
                Kind::Symlink(target.as_os_str().as_bytes())
            } else if kind.is_char_device() {
                Kind::CharDevice { major, minor }
            } else if kind.is_block_device() {
                Kind::BlockDevice { major, minor }
            } else if kind.is_fifo() {
                Kind::Fifo
            } else {
                Kind::Socket
            };
            let node = layer
                .add(parent, name.as_bytes(), attributes(&path, &meta)?, kind)
                .map_err(failed)?;
            if meta.is_dir() {
                folders.push((path, node));
            } else if let Some(link) = link {
                links.insert(link, node);
            }
        }
        pending.extend(folders.into_iter().rev());
    }
    Ok(layer.finish())
}

fn attributes(path: &Path, meta: &Metadata) -> Result<Attributes> {
    Ok(Attributes {
        mode: (meta.mode() & 0o7777) as u16,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: Timestamp {
            secs: meta.mtime(),
            nanos: meta.mtime_nsec() as u32,
        },
        xattrs: xattrs(path).map_err(|e| Error::io(path)(e.into()))?,
    })
}

fn xattrs(path: &Path) -> rustix::io::Result<fsmerge::Xattrs> {
    use rustix::io::Errno;
    // The kernel's own limit on a list of names and on a value.
    let mut buffer = vec![0; 1 << 16];
    let names = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(n) => buffer[..n].to_vec(),
        Err(Errno::NOTSUP) => return Ok(fsmerge::Xattrs::default()),
        Err(e) => return Err(e),
    };
    let known = [
        &b"user."[..],
        b"trusted.",
        b"security.",
        b"system.posix_acl_",
    ];
    names
        .split(|&byte| byte == 0)
        .filter(|name| known.iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| {
            let n = rustix::fs::lgetxattr(path, name, &mut buffer[..])?;
            Ok((name.to_vec(), buffer[..n].to_vec()))
        })
        .collect()
}

fn device(rdev: u64) -> (u32, u32) {
    // What rustix calls a device's number differs between systems; what std gives is 64 bits on all.
    (rustix::fs::major(rdev as _), rustix::fs::minor(rdev as _))
}
