//! From paths to inodes.

use alloc::string::String;
use alloc::vec::Vec;

use blockbox_path::{Follow, Tree, WalkError, walk};

use crate::error::Error;
use crate::file_type::FileType;
use crate::image::Image;
use crate::inode::Inode;
use crate::read_at::ReadAt;

/// The largest file that [`Image::read`] reads, in bytes: 1 GiB.
///
/// An image of a few kilobytes can describe a file of any size, all holes.
pub const MAX_READ: u64 = 1 << 30;

impl<R: ReadAt> Image<R> {
    /// Returns the inode at `path`, which counts from the root whether it begins with `/` or not;
    /// `None` where a name does not exist. A symbolic link is never followed: as the last component
    /// it is what is found, before that it is not a directory.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// if let Some(inode) = image.lookup("usr/bin/sudo")? {
    ///     println!("{:04o}", inode.mode());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] where something on the way is not a directory.
    pub fn lookup(&self, path: impl AsRef<[u8]>) -> Result<Option<Inode>, Error> {
        found(self.inode_at(path.as_ref(), Follow::Nothing))
    }

    /// Returns the inode at `path`, with symbolic links followed, the last component included,
    /// without ever leaving the image: the root is the root of absolute targets, and its own
    /// parent. `None` where a name does not exist.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// if let Some(shell) = image.resolve("/bin/sh")? {
    ///     println!("{} bytes", shell.size());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Image::lookup`]; [`Error::SymlinkLoop`] after [`MAX_SYMLINKS`](crate::MAX_SYMLINKS)
    /// links.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Result<Option<Inode>, Error> {
        found(self.inode_at(path.as_ref(), Follow::All))
    }

    /// Returns the inode at `path`, with symbolic links followed, as [`std::fs::metadata`] does.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// println!("{} bytes", image.metadata("/etc/passwd")?.size());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Image::resolve`]; [`Error::NotFound`] where a name does not exist.
    pub fn metadata(&self, path: impl AsRef<[u8]>) -> Result<Inode, Error> {
        self.inode_at(path.as_ref(), Follow::All)
    }

    /// Returns the inode at `path`, with symbolic links followed but for the last component, as
    /// [`std::fs::symlink_metadata`] does.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// println!("{}", image.symlink_metadata("/bin")?.file_type());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Image::metadata`].
    pub fn symlink_metadata(&self, path: impl AsRef<[u8]>) -> Result<Inode, Error> {
        self.inode_at(path.as_ref(), Follow::Parents)
    }

    /// Returns whether there is something at `path`, with symbolic links followed.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// println!("{}", image.exists("/sbin/init")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Image::resolve`].
    pub fn exists(&self, path: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.resolve(path)?.is_some())
    }

    /// Returns the contents of the regular file at `path`, with symbolic links followed, as
    /// [`std::fs::read`] does.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let image = erofs_reader::Image::open(std::fs::File::open("image.erofs")?)?;
    /// let passwd = image.read("/etc/passwd")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Image::metadata`]; [`Error::WrongType`] where it is not a regular file;
    /// [`Error::Limit`] where it is larger than [`MAX_READ`], before anything is read:
    /// [`Image::file`] reads in parts.
    pub fn read(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
        self.contents(&self.metadata(path)?)
    }

    /// Returns the contents of the regular file at `path` as text, with symbolic links followed, as
    /// [`std::fs::read_to_string`] does.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// println!("{}", image.read_to_string("/etc/os-release")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Image::read`]; [`Error::NotUtf8`] where the contents are not UTF-8.
    pub fn read_to_string(&self, path: impl AsRef<[u8]>) -> Result<String, Error> {
        let inode = self.metadata(path)?;
        let contents = self.contents(&inode)?;
        String::from_utf8(contents).map_err(|_| Error::NotUtf8 { nid: inode.nid() })
    }

    fn contents(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        inode.expect(FileType::Regular)?;
        let limit = Error::Limit { limit: MAX_READ };
        let size = match usize::try_from(inode.size()) {
            Ok(size) if inode.size() <= MAX_READ => size,
            _ => return Err(limit),
        };
        let mut contents = Vec::new();
        if contents.try_reserve_exact(size).is_err() {
            return Err(limit);
        }
        contents.resize(size, 0);
        let read = self.data(inode)?.read_full_at(&mut contents, 0)?;
        contents.truncate(read);
        Ok(contents)
    }

    fn inode_at(&self, path: &[u8], follow: Follow) -> Result<Inode, Error> {
        walk(&Inodes(self), path, follow).map_err(|error| match error {
            WalkError::NotFound(path) => Error::NotFound { path },
            WalkError::NotADirectory(_, inode) => inode.wrong_type(FileType::Directory),
            WalkError::SymlinkLoop => Error::SymlinkLoop { path: path.into() },
            WalkError::Tree(error) => error,
        })
    }
}

/// The inodes of an image, for walks along paths.
struct Inodes<'a, R>(&'a Image<R>);

impl<R: ReadAt> Tree for Inodes<'_, R> {
    type Node = Inode;
    type Error = Error;

    fn root(&self) -> Result<Inode, Error> {
        self.0.root()
    }

    fn is_directory(&self, inode: &Inode) -> bool {
        inode.is_dir()
    }

    fn child(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>, Error> {
        let entry = self.0.child(directory, name)?;
        entry.map(|entry| self.0.inode(entry.nid)).transpose()
    }

    fn target(&self, inode: &Inode) -> Result<Option<Vec<u8>>, Error> {
        match inode.is_symlink() {
            true => self.0.read_link(inode).map(Some),
            false => Ok(None),
        }
    }
}

/// The inode found, if any.
fn found(result: Result<Inode, Error>) -> Result<Option<Inode>, Error> {
    match result {
        Ok(inode) => Ok(Some(inode)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
