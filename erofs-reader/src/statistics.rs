//! Statistics of an image.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::error::Error;
use crate::extent::Source;
use crate::file_type::FileType;
use crate::image::Image;
use crate::read_at::ReadAt;

/// The result of [`Image::statistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Statistics {
    /// Names, the root's among them.
    pub names: u64,
    /// Inodes that have names.
    pub inodes: u64,
    /// Of them, regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Regular files that are compressed.
    pub compressed: u64,
    /// Inodes with an xattr area.
    pub with_xattrs: u64,
    /// Bytes of the contents of regular files, as their sizes say.
    pub bytes: u64,
    /// Of them, in holes.
    pub holes: u64,
    /// Of them, after inodes.
    pub inline: u64,
    /// Of them, in the packed inode.
    pub fragments: u64,
    /// Bytes of the devices that hold contents of regular files, compressed or not. Shared bytes
    /// are counted once; bytes after inodes and in the packed inode are not counted.
    pub stored: u64,
}

impl<R: ReadAt> Image<R> {
    /// Counts names, inodes and bytes of the image.
    ///
    /// Takes as long as [`Image::walk`] and all [extents](Image::extents) do, and memory for a few
    /// words of each inode and extent.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// println!("{:#?}", image.statistics()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::At`] where a directory or a block map is damaged.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let mut found = Statistics::default();
        let mut seen = BTreeSet::new();
        let mut places = Vec::new();
        let count = |counter: &mut u64, n: u64| *counter = counter.saturating_add(n);
        for step in self.walk() {
            let (path, inode) = step?;
            count(&mut found.names, 1);
            if !seen.insert(inode.nid()) {
                continue;
            }
            count(&mut found.inodes, 1);
            count(&mut found.with_xattrs, inode.has_xattrs().into());
            match inode.file_type() {
                FileType::Directory => count(&mut found.directories, 1),
                FileType::Symlink => count(&mut found.symlinks, 1),
                FileType::Regular => {
                    count(&mut found.files, 1);
                    count(&mut found.compressed, inode.is_compressed().into());
                    count(&mut found.bytes, inode.size());
                }
                _ => {}
            }
            if !inode.is_file() {
                continue;
            }
            let extents = self.extents(&inode).map_err(|e| e.of_path(&path))?;
            for extent in extents {
                let (device, start, length) = match extent.source {
                    Source::Data { device, offset } => (device, offset, extent.length),
                    Source::Compressed {
                        device,
                        offset,
                        length,
                        ..
                    } => (device, offset, length),
                    Source::Hole => {
                        count(&mut found.holes, extent.length);
                        continue;
                    }
                    Source::Inline { .. } | Source::CompressedInline { .. } => {
                        count(&mut found.inline, extent.length);
                        continue;
                    }
                    Source::Fragment { .. } => {
                        count(&mut found.fragments, extent.length);
                        continue;
                    }
                };
                places.push((device, start, start.saturating_add(length)));
            }
        }
        found.stored = covered(places);
        Ok(found)
    }
}

/// The bytes that ranges cover, each once.
fn covered(mut places: Vec<(u16, u64, u64)>) -> u64 {
    places.sort_unstable();
    let mut sum = 0_u64;
    let mut last = (0, 0);
    for (device, start, end) in places {
        if device != last.0 {
            last = (device, 0);
        }
        let fresh = end.saturating_sub(start.max(last.1));
        sum = sum.saturating_add(fresh);
        last.1 = last.1.max(end);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_data_is_counted_once() {
        let places = [(0, 0, 10), (0, 5, 8), (0, 8, 20), (1, 3, 5), (1, 3, 5)];
        assert_eq!(covered(places.to_vec()), 22);
        assert_eq!(covered(Vec::new()), 0);
    }
}
