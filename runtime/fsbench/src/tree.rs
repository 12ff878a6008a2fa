//! Lists the files to read.

use std::fs::{self, DirEntry, FileType};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A regular file that is not empty.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

/// A folder's directories, including itself, and files, in the order of the directories' listings.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) files: Vec<File>,
    /// The size of all files in bytes.
    pub(crate) bytes: u64,
}

impl Inventory {
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let mut found = Self::default();
        walk(root, &mut |path, entry, kind| {
            if kind.is_dir() {
                found.directories.push(path);
            } else if kind.is_file() {
                let size = entry.metadata().map_err(Error::io(&path))?.len();
                found.bytes += size;
                if size > 0 {
                    found.files.push(File { path, size });
                }
            }
            Ok(())
        })?;
        found.directories.push(root.to_owned());
        Ok(found)
    }

    /// Returns the largest file; if there are several, the first.
    pub(crate) fn largest(&self) -> Option<&File> {
        self.files.iter().rev().max_by_key(|file| file.size)
    }
}

/// Calls `see` for everything below `root`, directories before their contents. Mounts are skipped,
/// as in `find -xdev`.
pub(crate) fn walk(
    root: &Path,
    see: &mut impl FnMut(PathBuf, &DirEntry, FileType) -> Result<()>,
) -> Result<()> {
    let device = fs::metadata(root).map_err(Error::io(root))?.dev();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let entry = entry.map_err(Error::io(&folder))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::io(&path))?;
            if kind.is_dir() {
                if entry.metadata().map_err(Error::io(&path))?.dev() != device {
                    continue;
                }
                pending.push(path.clone());
            }
            see(path, &entry, kind)?;
        }
    }
    Ok(())
}

/// Returns the Python standard library of the system below `root`, or another folder of libraries.
pub(crate) fn library(root: &Path) -> PathBuf {
    let python = ["usr/local/lib", "usr/lib"].iter().find_map(|folder| {
        let mut found: Vec<_> = fs::read_dir(root.join(folder))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_python(path) && path.join("os.py").is_file())
            .collect();
        found.sort();
        found.pop()
    });
    let others = ["usr/lib", "lib", ""].map(|folder| root.join(folder));
    let other = || others.into_iter().find(|path| path.is_dir());
    python.or_else(other).unwrap_or_else(|| root.to_owned())
}

fn is_python(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("python3.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_pythons_if_there_is_one() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(library(root.path()), root.path().join(""));
        for folder in ["usr/lib/python3", "usr/lib/python3.11"] {
            fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        assert_eq!(library(root.path()), root.path().join("usr/lib"));
        let python = root.path().join("usr/lib/python3.11");
        fs::write(python.join("os.py"), "x").expect("a file");
        assert_eq!(library(root.path()), python);
    }

    #[test]
    fn empty_files_and_links_are_not_listed_for_reading() {
        let root = tempfile::tempdir().expect("a folder");
        fs::write(root.path().join("a"), "four").expect("a file");
        fs::write(root.path().join("b"), "").expect("a file");
        std::os::unix::fs::symlink("a", root.path().join("c")).expect("a link");
        let found = Inventory::of(root.path()).expect("readable");
        assert_eq!((found.files.len(), found.bytes), (1, 4));
        assert_eq!(found.directories, [root.path()]);
    }
}
