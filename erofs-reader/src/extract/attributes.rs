//! Restoring owners, xattrs, permissions and times of extracted files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use blockbox_path::BytePath;
use rustix::fs::{AtFlags, Gid, Mode, RawMode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::terms::{Terms, at};
use crate::error::Error;
use crate::image::Image;
use crate::inode::Inode;
use crate::num::wide;
use crate::read_at::ReadAt;

/// The file that attributes are restored on.
pub(super) enum Restored<'a> {
    /// A name in a directory, not followed if it is a symbolic link, and its path, which only
    /// xattrs need.
    Named(BorrowedFd<'a>, &'a [u8], &'a Path),
    /// An open file or directory, and the attributes that it has already.
    Open(&'a File, OriginalAttrs),
}

/// The owner and the permissions that something has before they are restored.
#[derive(Clone, Copy, Debug)]
pub(super) struct OriginalAttrs {
    owner: (u32, u32),
    mode: u32,
}

impl OriginalAttrs {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let is = file.metadata()?;
        Ok(Self {
            owner: (is.uid(), is.gid()),
            mode: is.mode() & 0o7777,
        })
    }
}

/// The attributes of newly created files. They depend on the mode given, on this process, and on a
/// group or ACL inherited from the directory, which is the same for all files in it. So each kind
/// of file is examined once.
#[derive(Debug, Default)]
pub(super) struct NewFiles(BTreeMap<u16, OriginalAttrs>);

impl NewFiles {
    /// Returns the attributes of `file`, which was created with the permissions of `inode`.
    pub(super) fn attributes_of(
        &mut self,
        file: &File,
        inode: &Inode,
    ) -> io::Result<OriginalAttrs> {
        let permissions = inode.mode() & CREATED_WITH;
        if let Some(original) = self.0.get(&permissions) {
            return Ok(*original);
        }
        let original = OriginalAttrs::of(file)?;
        self.0.insert(permissions, original);
        Ok(original)
    }
}

/// The bits of a mode that a file is made with. Those beyond permissions wait for the owner and the
/// contents.
pub(super) const CREATED_WITH: u16 = 0o777;

/// A path and the names of its xattrs that were refused.
pub(super) type Refused = (BytePath, Vec<BytePath>);

/// Restores everything but the contents, in an order in which no step undoes an earlier one: a new
/// owner clears set-user-ID bits and capabilities, an ACL changes permissions, and everything
/// changes the time. An open file that already has its owner and permissions keeps them, which is
/// cheaper than setting them.
pub(super) fn restore<R: ReadAt>(
    image: &Image<R>,
    inode: &Inode,
    path: &[u8],
    to: &Restored<'_>,
    terms: &Terms<'_>,
) -> Result<Option<Refused>, Error> {
    let output = |errno: Errno| at(path, errno.into());
    let io = |source| at(path, source);
    let (mut same_owner, mut same_mode) = (false, false);
    if let Restored::Open(_, original) = to {
        same_owner = original.owner == (inode.uid(), inode.gid());
        same_mode = original.mode == inode.mode().into();
    }
    if terms.options.owners && !same_owner {
        let (uid, gid) = (inode.uid(), inode.gid());
        match to {
            Restored::Named(dir, name, _) => {
                // -1 is none, and leaves the owner as it is.
                let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
                let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
                rustix::fs::chownat(dir, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(output)?;
            }
            Restored::Open(file, _) => {
                std::os::unix::fs::fchown(file, Some(uid), Some(gid)).map_err(io)?
            }
        }
    }
    let mut refused = Vec::new();
    if terms.options.xattrs {
        for (name, value) in image.xattrs(inode)? {
            same_mode = false;
            let length = wide(name.len()).saturating_add(wide(value.len()));
            terms.budget.charge(length)?;
            let set = match to {
                Restored::Named(_, _, path) => {
                    rustix::fs::lsetxattr(*path, &name[..], &value, XattrFlags::empty())
                }
                Restored::Open(file, _) => {
                    rustix::fs::fsetxattr(file, &name[..], &value, XattrFlags::empty())
                }
            };
            match set {
                Ok(()) => {}
                Err(e) if is_refusal(e) => refused.push(name.into()),
                Err(e) => return Err(output(e)),
            }
        }
    }
    if !inode.is_symlink() && !same_mode {
        match to {
            Restored::Named(dir, name, _) => {
                let mode = Mode::from_raw_mode(RawMode::from(inode.mode()));
                rustix::fs::chmodat(dir, *name, mode, AtFlags::empty()).map_err(output)?;
            }
            Restored::Open(file, _) => {
                let permissions = std::fs::Permissions::from_mode(inode.mode().into());
                file.set_permissions(permissions).map_err(io)?;
            }
        }
    }
    let mtime = inode.mtime();
    let time = Timespec {
        tv_sec: mtime.secs,
        tv_nsec: mtime.nanos.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    match to {
        Restored::Named(dir, name, _) => {
            rustix::fs::utimensat(dir, *name, &times, AtFlags::SYMLINK_NOFOLLOW)
        }
        Restored::Open(file, _) => rustix::fs::futimens(file, &times),
    }
    .map_err(output)?;
    Ok((!refused.is_empty()).then(|| (path.into(), refused)))
}

/// Whether an error means that the filesystem does not store such an xattr, or that this user may
/// not set it.
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
