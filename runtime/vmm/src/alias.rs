//! UTF-8 names for files with other paths, which monitors do not accept: symbolic links in a
//! temporary folder.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{MemoryBacking, VmConfig, VmmError};

/// The links of one machine. They are removed when it is dropped, so it must live as long as the VM
/// may open files.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    folder: Option<TempDir>,
    count: usize,
}

impl Aliases {
    /// Returns the same machine with links instead of paths that are not UTF-8.
    pub(super) fn rename(&mut self, config: &VmConfig) -> Result<VmConfig, VmmError> {
        let mut config = config.clone();
        self.replace(&mut config.kernel)?;
        for disk in &mut config.disks {
            self.replace(&mut disk.path)?;
        }
        for share in &mut config.shares {
            self.replace(&mut share.path)?;
        }
        match &mut config.memory {
            MemoryBacking::File(path) | MemoryBacking::CopyOf(path) => self.replace(path)?,
            MemoryBacking::Private | MemoryBacking::Shared(_) => {}
        }
        Ok(config)
    }

    pub(super) fn replace(&mut self, path: &mut PathBuf) -> Result<(), VmmError> {
        if path.to_str().is_none() {
            let what = format!("cannot make a link to {}", path.display());
            *path = self.link(path).map_err(VmmError::io(what))?;
        }
        Ok(())
    }

    fn link(&mut self, path: &Path) -> io::Result<PathBuf> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => tempfile::Builder::new().prefix("blockbox-").tempdir()?,
        };
        let link = self
            .folder
            .insert(folder)
            .path()
            .join(self.count.to_string());
        self.count += 1;
        let path = std::path::absolute(path)?;
        let name = path.file_name().filter(|name| name.to_str().is_some());
        let (Some(name), Some(parent)) = (name, path.parent()) else {
            symlink(&path, &link)?;
            // The server of a share needs a folder, not a link to one.
            return Ok(if path.is_dir() { link.join(".") } else { link });
        };
        // The link leads to the folder, because a VMDK descriptor names files beside it.
        symlink(parent, &link)?;
        Ok(link.join(name))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::Share;

    #[test]
    fn every_file_of_a_machine_has_a_name_in_utf_8() {
        let folder = tempfile::tempdir().unwrap();
        let latin = folder.path().join(OsStr::from_bytes(b"latin-\xe9"));
        fs::create_dir(&latin).unwrap();
        let named = |name: &str| {
            fs::write(latin.join(name), name).unwrap();
            latin.join(name)
        };
        let upper = latin.join(OsStr::from_bytes(b"upper-\xe9"));
        fs::write(&upper, "upper").unwrap();
        let mut given = VmConfig::new("/kernel", named("disk.vmdk"), upper)
            .share(Share::new("work", latin.clone()));
        given.memory = MemoryBacking::File(named("memory"));
        named("layer");

        let mut aliases = Aliases::default();
        let config = aliases.rename(&given).unwrap();
        assert_eq!(config.kernel, Path::new("/kernel"));
        let text = |path: &Path| {
            assert!(path.to_str().is_some(), "{path:?}");
            fs::read_to_string(path).unwrap()
        };
        let disk = &config.disks[0].path;
        assert_eq!(text(disk), "disk.vmdk");
        assert_eq!(text(&disk.with_file_name("layer")), "layer");
        assert_eq!(text(&config.disks[1].path), "upper");
        assert_eq!(text(&config.shares[0].path.join("layer")), "layer");
        let MemoryBacking::File(memory) = &config.memory else {
            panic!("{:?}", config.memory);
        };
        assert_eq!(text(memory), "memory");
        drop(aliases);
        assert!(!disk.exists());
    }
}
