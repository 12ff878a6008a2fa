//! Owners, xattrs, permissions and times of what was extracted.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::dir::{DirOptions, at};
use crate::error::Error;
use crate::image::Image;
use crate::inode::Inode;
use crate::read_at::ReadAt;

/// What gets attributes.
pub(super) enum To<'a> {
    /// What has this name, itself where it is a symbolic link.
    Named(&'a Path),
    /// An open file, which need not be looked up again.
    Open(&'a File),
}

/// A path and the names of its xattrs that were refused.
pub(super) type Refused = (Vec<u8>, Vec<Vec<u8>>);

/// Restores everything but the contents, in the order that keeps what came before: a new owner clears set-user-ID bits
/// and capabilities, and everything changes the time.
pub(super) fn restore<R: ReadAt>(
    image: &Image<R>,
    inode: &Inode,
    path: &[u8],
    to: &To<'_>,
    options: &DirOptions,
) -> Result<Option<Refused>, Error> {
    let output = |source| at(path, source);
    let mut refused = Vec::new();
    if options.owners {
        let (uid, gid) = (Some(inode.uid()), Some(inode.gid()));
        match to {
            To::Named(path) => std::os::unix::fs::lchown(path, uid, gid),
            To::Open(file) => std::os::unix::fs::fchown(file, uid, gid),
        }
        .map_err(output)?;
    }
    if options.xattrs {
        for (name, value) in image.xattrs(inode)? {
            let set = match to {
                To::Named(path) => {
                    rustix::fs::lsetxattr(*path, &name[..], &value, XattrFlags::empty())
                }
                To::Open(file) => {
                    rustix::fs::fsetxattr(file, &name[..], &value, XattrFlags::empty())
                }
            };
            match set {
                Ok(()) => {}
                Err(e) if is_refusal(e) => refused.push(name),
                Err(e) => return Err(output(e.into())),
            }
        }
    }
    if !inode.is_symlink() {
        let permissions = Permissions::from_mode(inode.mode().into());
        match to {
            To::Named(path) => fs::set_permissions(path, permissions),
            To::Open(file) => file.set_permissions(permissions),
        }
        .map_err(output)?;
    }
    let (seconds, nanoseconds) = inode.mtime();
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    match to {
        To::Named(path) => rustix::fs::utimensat(CWD, *path, &times, AtFlags::SYMLINK_NOFOLLOW),
        To::Open(file) => rustix::fs::futimens(file, &times),
    }
    .map_err(|e| output(e.into()))?;
    Ok((!refused.is_empty()).then(|| (path.to_vec(), refused)))
}

/// Whether a filesystem says that it keeps no xattr of such a name, size or value, or that this user may not set it.
fn is_refusal(error: Errno) -> bool {
    matches!(
        error,
        Errno::OPNOTSUPP
            | Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::RANGE
            | Errno::TOOBIG
            | Errno::NOSPC
    )
}
