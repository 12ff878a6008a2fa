//! The kernel's caches of contents, inodes and names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// `vm.drop_caches`, `Documentation/admin-guide/sysctl/vm.rst`.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// How many bytes are read at once: as many as a disk's usual readahead.
const STEP: usize = 128 << 10;

/// Returns whether this process may drop the caches.
pub(crate) fn may_drop() -> bool {
    File::options().write(true).open(DROP_CACHES).is_ok()
}

/// Drops everything in the caches that is not in use. Dirty pages are written first, because they
/// cannot be dropped.
pub(crate) fn drop_all() -> Result<()> {
    rustix::fs::sync();
    fs::write(DROP_CACHES, "3").map_err(Error::io(DROP_CACHES))
}

/// The beginning of a file or a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAhead {
    /// The file, or the disk's device.
    pub path: PathBuf,
    /// The length of the beginning, in bytes.
    pub bytes: u64,
}

impl ReadAhead {
    /// Reads it into the page cache, without any readahead after it, which would slow down the
    /// measured work.
    pub(crate) fn fetch(&self) -> Result<()> {
        let open = File::open(&self.path).map_err(Error::io(&self.path))?;
        read_at_random(&open).map_err(Error::io(&self.path))?;
        let mut buffer = vec![0; STEP];
        let mut left = open.take(self.bytes);
        loop {
            match left.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(&self.path)(error)),
            }
        }
    }
}

/// Turns off the readahead of a file.
#[cfg(not(target_vendor = "apple"))]
fn read_at_random(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(
        file,
        0,
        None,
        rustix::fs::Advice::Random,
    )?)
}

/// macOS has no `posix_fadvise`, and none of the caches that [`drop_all`] drops.
#[cfg(target_vendor = "apple")]
fn read_at_random(_: &File) -> io::Result<()> {
    Ok(())
}

/// Parses `FILE:BYTES`.
impl FromStr for ReadAhead {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.rsplit_once(':');
        let (path, bytes) = parts.ok_or("not FILE:BYTES")?;
        let bytes = bytes.parse().map_err(|_| "not a number of bytes")?;
        Ok(Self {
            path: path.into(),
            bytes,
        })
    }
}

/// Returns the kernel's release, as `uname -r` does.
pub(crate) fn kernel_release() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_ahead_setting_is_a_file_and_a_number() {
        let loop_device = "/dev/disk:0:4096".parse();
        let expected = ReadAhead {
            path: "/dev/disk:0".into(),
            bytes: 4096,
        };
        assert_eq!(loop_device, Ok(expected));
        assert!("/dev/disk".parse::<ReadAhead>().is_err());
        assert!("/dev/disk:all".parse::<ReadAhead>().is_err());
    }
}
