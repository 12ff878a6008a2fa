//! Folders that appear only when they are complete.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::temporary::{PREFIX, Registered};

/// A folder under a temporary name. It is removed when dropped, by
/// [`remove_unfinished`](crate::remove_unfinished), or unless it is given a name.
#[derive(Debug)]
pub struct NewFolder {
    folder: TempDir,
    registered: Registered,
}

impl NewFolder {
    /// Makes an empty folder in `outer`, for its owner alone.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn create_in(outer: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let make = || builder.tempdir_in(outer);
        let (folder, registered) = Registered::make(make, TempDir::path)?;
        Ok(Self { folder, registered })
    }

    /// Returns the folder's path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Names the folder `path`, where nothing or an empty folder may be.
    ///
    /// # Errors
    ///
    /// Those of the system; the folder is removed then.
    pub fn persist(self, path: &Path) -> io::Result<()> {
        self.registered
            .finish(|| std::fs::rename(self.folder.path(), path))?;
        // The folder was renamed, so there is nothing to remove under its temporary name.
        let _ = self.folder.keep();
        Ok(())
    }
}

impl AsRef<Path> for NewFolder {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;

    use super::*;

    #[test]
    fn a_folder_is_removed_unless_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        let new = || {
            let folder = NewFolder::create_in(dir.path()).unwrap();
            fs::write(folder.path().join("file"), "contents").unwrap();
            folder
        };
        new().persist(&path).unwrap();
        assert_eq!(fs::read(path.join("file")).unwrap(), b"contents");
        assert!(new().persist(&path).is_err());
        drop(new());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
