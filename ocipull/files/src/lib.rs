#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod folder;
mod open;
mod resolve;
mod temporary;

use std::fs::{File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

pub use folder::NewFolder;
pub use open::{open_disk, open_input, open_regular};
pub use resolve::{parent, target};
use temporary::Registered;
pub use temporary::{PREFIX, remove_unfinished};

/// A file that is named only when it is complete.
#[derive(Debug)]
pub struct NewFile(Inner);

#[derive(Debug)]
enum Inner {
    #[cfg(target_os = "linux")]
    Unnamed(File),
    /// A file with a temporary name, on a file system that has no files without names.
    Named(NamedTempFile, Registered),
}

impl NewFile {
    /// Creates a file on the file system of `folder`. `mode` is its permissions, before the
    /// process's umask is applied.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn create_in(folder: &Path, mode: u32) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Some(file) = unnamed(folder, mode)? {
            return Ok(Self(Inner::Unnamed(file)));
        }
        Self::named_in(folder, mode)
    }

    fn named_in(folder: &Path, mode: u32) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
        #[cfg(not(unix))]
        let _ = mode;
        let make = || builder.tempfile_in(folder);
        let (file, registered) = Registered::make(make, |file| file.path())?;
        Ok(Self(Inner::Named(file, registered)))
    }

    /// Returns the file.
    pub fn as_file(&self) -> &File {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Unnamed(file) => file,
            Inner::Named(file, _) => file.as_file(),
        }
    }

    /// Returns the file, to write to.
    pub fn as_file_mut(&mut self) -> &mut File {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Inner::Unnamed(file) => file,
            Inner::Named(file, _) => file.as_file_mut(),
        }
    }

    /// Returns a path by which this process can open the file until it is named.
    pub fn path(&self) -> PathBuf {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Unnamed(file) => descriptor_path(file),
            Inner::Named(file, _) => file.path().to_owned(),
        }
    }

    /// Sets the file's permissions, regardless of the umask.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        self.as_file().set_permissions(permissions)
    }

    /// Names the file `path`, where no file may exist.
    ///
    /// # Errors
    ///
    /// Those of the system; the file is deleted then.
    pub fn persist_new(self, path: &Path) -> io::Result<()> {
        match self.0 {
            #[cfg(target_os = "linux")]
            Inner::Unnamed(file) => link(&file, path),
            Inner::Named(file, registered) => {
                let done = file.persist_noclobber(path).map_err(|error| error.error);
                drop(registered);
                done.map(drop)
            }
        }
    }

    /// Names the file `path`, and replaces a file of that name.
    ///
    /// # Errors
    ///
    /// Those of the system; the file is deleted then.
    pub fn persist(self, path: &Path) -> io::Result<()> {
        match self.0 {
            #[cfg(target_os = "linux")]
            Inner::Unnamed(file) => link_over(&file, path),
            Inner::Named(file, registered) => {
                let done = file.persist(path).map_err(|error| error.error);
                drop(registered);
                done.map(drop)
            }
        }
    }
}

impl Read for NewFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.as_file_mut().read(bytes)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.as_file_mut().flush()
    }
}

impl Seek for NewFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.as_file_mut().seek(to)
    }
}

/// Creates a file without a name, or returns `None` if the file system does not support this, or if
/// the file could not be named later.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path, mode: u32) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(mode)) {
        Ok(file) => {
            let file = File::from(file);
            // Without /proc the file could not be named.
            Ok(descriptor_path(&file).exists().then_some(file))
        }
        // Older kernels take the flag for a request to write to a directory.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(target_os = "linux")]
fn descriptor_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Names a file without a name `path`, where no file may exist.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};

    let from = descriptor_path(file);
    Ok(linkat(CWD, &from, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Names a file without a name `path`, and replaces a file of that name.
#[cfg(target_os = "linux")]
fn link_over(file: &File, path: &Path) -> io::Result<()> {
    match link(file, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        done => return done,
    }
    // A link never replaces a file; a rename does.
    let make = || {
        let mut builder = tempfile::Builder::new();
        let link = |name: &Path| link(file, name);
        builder.prefix(PREFIX).make_in(parent(path), link)
    };
    let (aside, registered) = Registered::make(make, |aside| aside.path())?;
    let done = aside.persist(path).map_err(|error| error.error);
    drop(registered);
    done.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use std::fs;

    type Make = fn(&Path, u32) -> io::Result<NewFile>;
    const KINDS: [Make; 2] = [NewFile::create_in, NewFile::named_in];

    #[test]
    fn a_file_is_named_when_it_is_complete() {
        for make in KINDS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            for contents in ["one", "two"] {
                let before = fs::read(&path).ok();
                let mut file = make(dir.path(), 0o600).unwrap();
                file.write_all(contents.as_bytes()).unwrap();
                assert_eq!(fs::read(file.path()).unwrap(), contents.as_bytes());
                assert_eq!(fs::read(&path).ok(), before);
                file.persist(&path).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), contents);
            }
            drop(make(dir.path(), 0o600).unwrap());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_folder_is_empty_until_the_file_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let _file = NewFile::create_in(dir.path(), 0o644).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn persist_new_replaces_no_file() {
        for make in KINDS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let new = || make(dir.path(), 0o600).unwrap();
            new().persist_new(&path).unwrap();
            let error = new().persist_new(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        for make in KINDS {
            let dir = tempfile::tempdir().unwrap();
            let error = make(&dir.path().join("none"), 0o644).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
