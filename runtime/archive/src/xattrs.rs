//! Extended attributes of open files.

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The kernel's limit on a list of names and on a value, in bytes (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`).
const BUFFER: usize = 1 << 16;

/// Returns the extended attributes of an open file; none if its filesystem does not support them.
pub(crate) fn read(file: impl AsFd) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut buffer = vec![0; BUFFER];
    let length = match rustix::fs::flistxattr(&file, &mut buffer[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP | Errno::PERM) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let names = buffer.get(..length).unwrap_or_default().to_vec();
    let mut found = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|n| !n.is_empty()) {
        // Attributes that the kernel generates for a filesystem (`system.nfs4_acl`) need not be
        // copied.
        if name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_") {
            continue;
        }
        match rustix::fs::fgetxattr(&file, name, &mut buffer[..]) {
            Ok(length) => {
                found.push((
                    name.to_vec(),
                    buffer.get(..length).unwrap_or_default().to_vec(),
                ));
            }
            // The attribute was removed meanwhile, or this user may not read it.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

/// Sets an extended attribute. Returns `false` if the filesystem does not support it, or this user
/// may not set it.
pub(crate) fn set(file: impl AsFd, name: &[u8], value: &[u8]) -> rustix::io::Result<bool> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}
