//! The kernel's caches of contents, inodes and names.

use std::fs::{self, File};

use crate::error::{Error, Result};

/// `vm.drop_caches`, `Documentation/admin-guide/sysctl/vm.rst`.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Whether this process may empty them.
pub(crate) fn may_drop() -> bool {
    File::options().write(true).open(DROP_CACHES).is_ok()
}

/// Empties them of everything that is not in use. What is dirty is written first, since it cannot be dropped.
pub(crate) fn drop_all() -> Result<()> {
    rustix::fs::sync();
    fs::write(DROP_CACHES, "3").map_err(Error::io(DROP_CACHES))
}

/// What `uname -r` says.
pub(crate) fn kernel_release() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}
