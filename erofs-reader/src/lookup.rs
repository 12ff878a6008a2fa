//! From paths to inodes.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::Error;
use crate::file_type::FileType;
use crate::image::Image;
use crate::inode::Inode;
use crate::read_at::ReadAt;

/// How many symbolic links a lookup follows, as in Linux (`MAXSYMLINKS`).
pub const MAX_SYMLINKS: usize = 40;

/// The largest file that [`Image::read`] reads, in bytes: 1 GiB.
///
/// An image of a few kilobytes can describe a file of any size, all holes.
pub const MAX_READ: u64 = 1 << 30;

/// Which symbolic links a lookup follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    /// None: a link as the last component is returned, and before that it is not a directory.
    Nothing,
    /// Those before the last component.
    Parents,
    /// The last component's too.
    All,
}

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
    /// As [`Image::lookup`]; [`Error::SymlinkLoop`] after [`MAX_SYMLINKS`] links.
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
        let mut links = MAX_SYMLINKS;
        // The directories from the root to the current one, and the names of all but the root.
        let mut at = vec![(Vec::new(), self.root()?)];
        // Components still to be looked up, the next one last.
        let mut pending: Vec<Vec<u8>> = components(path);
        while let Some(name) = pending.pop() {
            let Some((_, here)) = at.last() else {
                break;
            };
            here.expect(FileType::Directory)?;
            if name == b".." {
                if at.len() > 1 {
                    at.pop();
                }
                continue;
            }
            let Some(entry) = self.child(here, &name)? else {
                let names = at.iter().skip(1).map(|(name, _)| &name[..]);
                let names: Vec<_> = names.chain([&name[..]]).collect();
                return Err(Error::NotFound {
                    path: names.join(&b'/').into(),
                });
            };
            let inode = self.inode(entry.nid)?;
            let follows = match follow {
                Follow::Nothing => false,
                Follow::Parents => !pending.is_empty(),
                Follow::All => true,
            };
            if follows && inode.is_symlink() {
                links = links
                    .checked_sub(1)
                    .ok_or_else(|| Error::SymlinkLoop { path: path.into() })?;
                let target = self.read_link(&inode)?;
                if target.starts_with(b"/") {
                    at.truncate(1);
                }
                pending.extend(components(&target));
                continue;
            }
            at.push((name, inode));
        }
        match at.pop() {
            Some((_, inode)) => Ok(inode),
            None => self.root(),
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

/// The components of a path without empty ones and `.`, last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}
