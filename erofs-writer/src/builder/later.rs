//! Contents that are requested in the order of the tree once it is known.

use std::io::{Seek, Write};

use super::Builder;
use crate::error::Error;
use crate::file_data::{FileData, Place};
use crate::metadata::Node;
use crate::plan;

impl FileData {
    /// Contents to be requested by [`Builder::store_later`], which passes on `number`, the caller's
    /// own identifier of them.
    pub const fn later(number: u64) -> Self {
        Self {
            size: 0,
            place: Place::Later { number },
        }
    }
}

impl<W: Write + Seek> Builder<W> {
    /// Requests all contents that are [to come later](FileData::later): directory by directory in
    /// the order of names, so that files of one directory lie side by side, and the image does not
    /// depend on the order in which anything was added.
    ///
    /// `contents` receives their numbers and stores them by [`data`](Self::data) or a similar
    /// method. A file with several names is requested once.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, FileData, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let files = [&b"first"[..], &b"second"[..]];
    /// image.add_path(b"b", Metadata::new(0o644), Node::File(FileData::later(1)))?;
    /// image.add_path(b"a", Metadata::new(0o644), Node::File(FileData::later(0)))?;
    /// // In the order of names: a, then b.
    /// image.store_later(|image, number| image.store(files[number as usize]))?;
    /// image.finish()?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `contents`, which is not called again then; otherwise as for [`add`](Self::add).
    pub fn store_later<E: From<Error>>(
        &mut self,
        mut contents: impl FnMut(&mut Self, u64) -> Result<FileData, E>,
    ) -> Result<(), E> {
        for index in self.in_order() {
            let mut inode = self.tree.inodes[index as usize];
            let data = contents(self, inode.payload)?;
            inode.flags.later = false;
            self.check_node(&mut inode, &Node::File(data))
                .map_err(|problem| problem.at(self.tree.path(index)))?;
            self.tree.inodes[index as usize] = inode;
        }
        Ok(())
    }

    /// Checks that no contents are to come any more.
    pub(crate) fn check_complete(&self) -> Result<(), Error> {
        let mut inodes = (0..).zip(&self.tree.inodes);
        match inodes.find(|(_, inode)| inode.flags.later) {
            Some((index, _)) => Err(Error::NoContents(self.tree.path(index).into())),
            None => Ok(()),
        }
    }

    /// The inodes whose contents are to come, in the order of the disk.
    fn in_order(&mut self) -> Vec<u32> {
        let sorted = std::mem::take(&mut self.tree).sort();
        let mut order = plan::scan_order(&sorted);
        order.retain(|&index| {
            let inode = sorted.inode(index);
            inode.flags.later && inode.nlink > 0
        });
        self.tree = sorted.into_tree();
        order
    }
}
