//! From paths to inodes.

use alloc::vec;
use alloc::vec::Vec;

use crate::error::Error;
use crate::image::Image;
use crate::inode::{FileType, Inode};
use crate::read_at::ReadAt;

/// How many symbolic links a lookup follows, as in Linux (`MAXSYMLINKS`).
pub const MAX_SYMLINKS: usize = 40;

impl<R: ReadAt> Image<R> {
    /// The inode at `path`, which counts from the root whether it begins with `/` or not. A symbolic link is never
    /// followed: as the last component it is what is found, before that it is no directory.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where a name does not exist, [`Error::WrongType`] where something on the way is not a
    /// directory.
    pub fn lookup(&self, path: &[u8]) -> Result<Inode, Error> {
        self.resolve(path, 0)
    }

    /// The inode at `path`, with symbolic links followed, the last component included, without ever leaving the image:
    /// the root is the root of absolute targets, and its own parent.
    ///
    /// # Errors
    ///
    /// As [`Image::lookup`]; [`Error::TooManyLinks`] after [`MAX_SYMLINKS`] links.
    pub fn lookup_follow(&self, path: &[u8]) -> Result<Inode, Error> {
        self.resolve(path, MAX_SYMLINKS)
    }

    /// `links` is how many symbolic links may be followed; 0 for none at all, which is no error.
    fn resolve(&self, path: &[u8], links: usize) -> Result<Inode, Error> {
        let follow = links > 0;
        let mut links = links;
        // The directories from the root to where we are, and the names of all but the root.
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
            let Some(entry) = self.find(here, &name)? else {
                let names = at.iter().skip(1).map(|(name, _)| &name[..]);
                let names: Vec<_> = names.chain([&name[..]]).collect();
                return Err(Error::NotFound {
                    path: names.join(&b'/'),
                });
            };
            let inode = self.inode(entry.nid)?;
            if follow && inode.is_symlink() {
                links = links.checked_sub(1).ok_or_else(|| Error::TooManyLinks {
                    path: path.to_vec(),
                })?;
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

/// The components of a path that matter, last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}
