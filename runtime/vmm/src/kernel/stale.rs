//! Stale files in the folder of prepared kernels.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{KERNEL_PREFIX, SEEN_PREFIX};
use crate::{VmmError, hypervisor};

/// The age at which the process that made a temporary file has certainly ended.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The prefix of the names of temporary files.
const TEMPORARY_PREFIX: &str = ".tmp";

/// Returns the files in the folder `cache` that are no longer needed: kernels other than `current`,
/// as [`locate`](super::locate) returns them, the host's first, and the notes on their libraries; a
/// cached result about the hypervisor of another boot or kernel; temporary files of killed
/// processes. If `current` is empty, kernels are not included.
///
/// # Errors
///
/// If the folder cannot be read.
pub fn stale(cache: &Path, current: &[PathBuf]) -> Result<Vec<PathBuf>, VmmError> {
    let failed = |path: &Path| VmmError::io(format!("cannot read {}", path.display()));
    let entries = match fs::read_dir(cache) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(cache))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(cache))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_stale = if name.starts_with(TEMPORARY_PREFIX) {
            is_abandoned(&path)
        } else if let [host, ..] = current {
            if name.starts_with(KERNEL_PREFIX) {
                !current.contains(&path)
            } else if name.starts_with(SEEN_PREFIX) {
                let noted = fs::read_to_string(&path).map(|kernel| cache.join(kernel));
                !noted.is_ok_and(|kernel| current.contains(&kernel))
            } else {
                name == hypervisor::FILE && !hypervisor::is_current(host, cache)
            }
        } else {
            false
        };
        if is_stale {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_abandoned(path: &Path) -> bool {
    let modified = path.symlink_metadata().and_then(|meta| meta.modified());
    let age = modified
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age > ABANDONED)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn stale_kernels_exclude_the_one_in_use_and_foreign_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, contents) in [
            ("kernel-elf1-new", "kernel"),
            ("kernel-elf0-old", "kernel"),
            ("seen-old", "kernel-elf0-old"),
            ("seen-new", "kernel-elf1-new"),
            ("kernel-raw1-new", "kernel of the other architecture"),
            ("seen-other", "kernel-raw1-new"),
            (
                "hypervisor.json",
                r#"{"key":"another boot","verdict":"works"}"#,
            ),
            ("libkrunfw.so.5", "library"),
            (".tmpAbC", "half a kernel of a process that was killed"),
            (".tmpDeF", "half a kernel of a process that works on it"),
        ] {
            fs::write(path(name), contents).unwrap();
        }
        let long_ago = SystemTime::now() - 2 * ABANDONED;
        let abandoned = fs::File::options().write(true).open(path(".tmpAbC"));
        abandoned.unwrap().set_modified(long_ago).unwrap();

        let both = ["kernel-elf1-new", "kernel-raw1-new"].map(path);
        let old = [".tmpAbC", "hypervisor.json", "kernel-elf0-old", "seen-old"].map(path);
        assert_eq!(stale(folder.path(), &both).unwrap(), old);
        let other = ["kernel-raw1-new", "seen-other"].map(path);
        let more = stale(folder.path(), &both[..1]).unwrap();
        assert!(old.iter().chain(&other).all(|path| more.contains(path)));
        assert_eq!(stale(folder.path(), &[]).unwrap(), [path(".tmpAbC")]);
        assert!(stale(&path("missing"), &[]).unwrap().is_empty());
    }
}
