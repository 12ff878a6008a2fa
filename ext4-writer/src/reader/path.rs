//! Files by path.

use std::io::{Read, Seek};

use blockbox_path::{Follow, Tree, WalkError, walk};

use super::{Inode, Reader};
use crate::Error;

/// The largest file that [`Reader::read`] reads, in bytes: 1 GiB.
///
/// An image of a few kilobytes can have a file of any size, all holes.
pub const MAX_READ: u64 = 1 << 30;

impl<R: Read + Seek> Reader<R> {
    /// Returns the inode at `path`, which counts from the root whether it begins with `/` or not;
    /// `None` if a name does not exist. No symbolic link is followed: one before the last component
    /// is not a directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Kind, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin"))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// let link = reader.lookup("/bin")?.expect("it was added");
    /// assert_eq!(link.kind(), Kind::Symlink);
    /// assert!(reader.lookup("/sbin")?.is_none());
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotADirectory`] if something on the way is not a directory; [`Error::Corrupt`],
    /// [`Error::Output`].
    pub fn lookup(&self, path: impl AsRef<[u8]>) -> Result<Option<Inode>, Error> {
        found(self.inode_at(path.as_ref(), Follow::Nothing))
    }

    /// Returns the inode that `path` leads to, with all symbolic links followed inside the
    /// filesystem, that of the last component too; `None` if a name does not exist.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin"))?;
    /// builder.add_path(b"usr/bin/sh", Metadata::new(0o755), Node::file(&b"#!"[..]))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// let shell = reader.resolve("/bin/sh")?.expect("it was added");
    /// assert_eq!((shell.size(), shell.mode()), (2, 0o755));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lookup`](Self::lookup); [`Error::SymlinkLoop`] after 40 links.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Result<Option<Inode>, Error> {
        found(self.inode_at(path.as_ref(), Follow::All))
    }

    /// Returns the inode at `path`, with symbolic links followed, as [`std::fs::metadata`] does.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// let attributes = Metadata::new(0o600).owner(1000, 100);
    /// builder.add_path(b"etc/secret", attributes, Node::file(&b"x"[..]))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// let inode = reader.metadata("etc/secret")?;
    /// assert_eq!((inode.mode(), inode.uid(), inode.gid()), (0o600, 1000, 100));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve); [`Error::NotFound`] if a name does not exist.
    pub fn metadata(&self, path: impl AsRef<[u8]>) -> Result<Inode, Error> {
        self.inode_at(path.as_ref(), Follow::All)
    }

    /// Returns the inode at `path`, with symbolic links followed but for the last component, as
    /// [`std::fs::symlink_metadata`] does.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin"))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// let link = reader.symlink_metadata("bin")?;
    /// assert_eq!(reader.read_link(&link)?, b"usr/bin");
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`metadata`](Self::metadata).
    pub fn symlink_metadata(&self, path: impl AsRef<[u8]>) -> Result<Inode, Error> {
        self.inode_at(path.as_ref(), Follow::Parents)
    }

    /// Returns whether there is something at `path`, with symbolic links followed.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Options, Reader};
    ///
    /// let builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// assert!(reader.exists("/lost+found")? && !reader.exists("/sbin/init")?);
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve).
    pub fn exists(&self, path: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.resolve(path)?.is_some())
    }

    /// Returns the contents of the regular file at `path`, with symbolic links followed, as
    /// [`std::fs::read`] does.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"etc/key", Metadata::new(0o600), Node::file(&[1, 2, 3][..]))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// assert_eq!(reader.read("/etc/key")?, [1, 2, 3]);
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`metadata`](Self::metadata); [`Error::WrongType`] if it is not a regular file;
    /// [`Error::Limit`] if it is larger than [`MAX_READ`], before anything is read:
    /// [`file`](Self::file) reads in parts.
    pub fn read(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
        self.read_whole(&self.metadata(path)?)
    }

    /// Returns the contents of the regular file at `path` as text, with symbolic links followed, as
    /// [`std::fs::read_to_string`] does.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"etc/hostname", Metadata::new(0o644), Node::file(&b"box\n"[..]))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// assert_eq!(reader.read_to_string("/etc/hostname")?, "box\n");
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); [`Error::NotUtf8`] if the contents are not UTF-8.
    pub fn read_to_string(&self, path: impl AsRef<[u8]>) -> Result<String, Error> {
        let inode = self.metadata(path)?;
        let contents = self.read_whole(&inode)?;
        String::from_utf8(contents).map_err(|_| Error::NotUtf8 {
            inode: inode.number(),
        })
    }

    fn read_whole(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        let limit = Error::Limit { limit: MAX_READ };
        let mut file = self.file(inode)?;
        let size = match usize::try_from(inode.size()) {
            Ok(size) if inode.size() <= MAX_READ => size,
            _ => return Err(limit),
        };
        let mut contents = Vec::new();
        if contents.try_reserve_exact(size).is_err() {
            return Err(limit);
        }
        contents.resize(size, 0);
        file.read_exact(&mut contents)
            .map_err(|source| Error::Output {
                offset: file.offset().unwrap_or_default(),
                source,
            })?;
        Ok(contents)
    }

    fn inode_at(&self, path: &[u8], follow: Follow) -> Result<Inode, Error> {
        walk(&Inodes(self), path, follow).map_err(|error| match error {
            WalkError::NotFound(path) => Error::NotFound { path },
            WalkError::NotADirectory(path, _) => Error::NotADirectory { path },
            WalkError::SymlinkLoop => Error::SymlinkLoop { path: path.into() },
            WalkError::Tree(error) => error,
        })
    }
}

/// The inodes of a filesystem, for walks along paths.
struct Inodes<'a, R>(&'a Reader<R>);

impl<R: Read + Seek> Tree for Inodes<'_, R> {
    type Node = Inode;
    type Error = Error;

    fn root(&self) -> Result<Inode, Error> {
        self.0.root()
    }

    fn is_directory(&self, inode: &Inode) -> bool {
        inode.is_dir()
    }

    fn child(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>, Error> {
        self.0.child(directory, name)
    }

    fn target(&self, inode: &Inode) -> Result<Option<Vec<u8>>, Error> {
        match inode.is_symlink() {
            true => self.0.read_link(inode).map(Some),
            false => Ok(None),
        }
    }
}

/// Returns the inode found, if any.
fn found(result: Result<Inode, Error>) -> Result<Option<Inode>, Error> {
    match result {
        Ok(inode) => Ok(Some(inode)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
