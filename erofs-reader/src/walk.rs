//! Walking the whole tree.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use blockbox_path::BytePath;

use crate::areas::Areas;
use crate::corruption::Detail;
use crate::dir::ReadDir;
use crate::error::Error;
use crate::image::Image;
use crate::inode::Inode;
use crate::nid::Nid;
use crate::read_at::ReadAt;

/// How deeply directories may be nested for [`Image::walk`]; the kernel has no limit, but no path
/// of so many components.
pub const MAX_DEPTH: usize = 4096;

/// How many times larger than the image compressed directories may be.
pub(crate) const COMPRESSED_DIRECTORIES: u64 = 1024;

/// Iterates over a tree; made by [`Image::walk`].
///
/// An error is an [`Error::At`], with the path that could not be read. The walk then continues
/// after the damage: an unreadable directory has no children.
#[derive(Debug)]
pub struct Walk<'a, R> {
    image: &'a Image<R>,
    started: bool,
    /// The directories from the root to the current one, and the lengths of their paths.
    stack: Vec<(ReadDir<'a, R>, usize)>,
    path: Vec<u8>,
    visited: BTreeSet<Nid>,
    /// How many more bytes of directories there can be.
    budget: u64,
}

impl<R: ReadAt> Image<R> {
    /// Every name of the image with its inode, depth first, in byte order of the names of each
    /// directory; the root first, with an empty path. No path begins with a slash.
    ///
    /// A directory is entered once at most, so that the walk ends: a second link to one is
    /// [`Detail::DirectoryLinkedTwice`]. It takes memory for the nids of all directories and one
    /// block for each directory on the way, which both are bounded by the image's size; and
    /// directories that share blocks are [`Detail::DirectoriesOverlap`] as soon as they are larger
    /// together than the image, so that the number of names is bounded too.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// for step in image.walk() {
    ///     let (path, inode) = step?;
    ///     println!("{:04o} {path}", inode.mode());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn walk(&self) -> Walk<'_, R> {
        Walk {
            image: self,
            started: false,
            stack: Vec::new(),
            path: Vec::new(),
            visited: BTreeSet::new(),
            budget: self.storage().total_size(),
        }
    }
}

impl<R: ReadAt> Walk<'_, R> {
    /// Prepares to return the children of `dir`, whose path is `self.path`.
    fn enter(&mut self, dir: &Inode) -> Result<(), Error> {
        let corrupt = |what| Err(dir.corrupt(dir.position(), what));
        if !self.visited.insert(dir.nid()) {
            return corrupt(Detail::DirectoryLinkedTwice);
        }
        if self.stack.len() > MAX_DEPTH {
            return corrupt(Detail::Depth);
        }
        let cost = if dir.is_compressed() {
            dir.size().div_ceil(COMPRESSED_DIRECTORIES)
        } else {
            dir.size()
        };
        match self.budget.checked_sub(cost) {
            Some(left) => self.budget = left,
            None => return corrupt(Detail::DirectoriesOverlap),
        }
        let entries = self.image.read_dir(dir)?;
        self.stack.push((entries, self.path.len()));
        Ok(())
    }

    fn root(&mut self) -> Result<(BytePath, Inode), Error> {
        let root = self.image.root()?;
        self.enter(&root)?;
        Ok((BytePath::default(), root))
    }

    fn step(&mut self) -> Option<Result<(BytePath, Inode), Error>> {
        if !self.started {
            self.started = true;
            return Some(self.root());
        }
        loop {
            let (entries, length) = self.stack.last_mut()?;
            self.path.truncate(*length);
            let entry = match entries.next() {
                None => {
                    self.stack.pop();
                    continue;
                }
                Some(Err(e)) => return Some(Err(e)),
                Some(Ok(entry)) => entry,
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&entry.name);
            let inode = match self.image.inode(entry.nid) {
                Ok(inode) => inode,
                Err(e) => return Some(Err(e)),
            };
            if inode.is_dir()
                && let Err(e) = self.enter(&inode)
            {
                return Some(Err(e));
            }
            return Some(Ok((self.path.as_slice().into(), inode)));
        }
    }
}

impl<R: ReadAt> Iterator for Walk<'_, R> {
    type Item = Result<(BytePath, Inode), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step()?;
        Some(step.map_err(|e| e.of_path(&self.path)))
    }
}
