//! The tree as a tar stream.

use std::collections::HashMap;
use std::io::Write;

use super::Extracted;
use super::ahead::{self, Stream};
use super::pax::{BLOCK, Header, Records};
use crate::error::Error;
use crate::image::Image;
use crate::inode::{FileType, Inode, Nid};
use crate::num::narrow;
use crate::read_at::ReadAt;

/// How to write a tar stream.
#[derive(Clone, Debug, Default)]
pub struct TarOptions {
    /// How many bytes of file contents may be written; any number if `None`.
    ///
    /// A small image can describe files of any size, all holes: set this where the image is not trusted.
    pub max_bytes: Option<u64>,
}

/// Writes the tree of `image` to `out` as a tar archive, and its end-of-archive blocks.
///
/// The same image always gives the same bytes. Entries are in the order of [`Image::walk`], the root first as `./`;
/// directories end with a slash; every name of a file but the first is a hard link. Times, owners, sizes, paths and link
/// targets that the ustar header cannot hold, and all xattrs, are PAX records. Holes are written as zeros. Sockets, which
/// tar cannot hold, are skipped.
///
/// Compressed contents are decoded ahead by as many threads as the machine runs at once; this one writes.
///
/// # Errors
///
/// [`Error::At`] where the image is damaged: what was written before is then no whole archive. [`Error::Output`] where `out`
/// fails, [`Error::Limit`] where there is more than `options.max_bytes`.
pub fn extract_to_tar<R: ReadAt + Sync, W: Write>(
    image: &Image<R>,
    out: W,
    options: &TarOptions,
) -> Result<Extracted, Error> {
    ahead::with(image, out, |stream| {
        let mut done = Extracted::default();
        let result = entries(image, stream, options, &mut done);
        // Whatever went wrong comes behind what was good before it.
        stream.flush()?;
        result?;
        stream.bytes(&[], vec![0; BLOCK * 2])?;
        stream.flush()?;
        Ok(done)
    })
}

fn entries<R: ReadAt + Sync, W: Write>(
    image: &Image<R>,
    stream: &mut Stream<'_, '_, R, W>,
    options: &TarOptions,
    done: &mut Extracted,
) -> Result<(), Error> {
    // Where the inodes with several names were written.
    let mut written: HashMap<Nid, Vec<u8>> = HashMap::new();
    for step in image.walk() {
        let (path, inode) = step?;
        if inode.file_type() == FileType::Socket {
            done.skipped.push(path);
            continue;
        }
        done.entries = done.entries.saturating_add(1);
        if let Some(first) = written.get(&inode.nid()) {
            let header = header(&inode, &path, first, b'1', 0).encode(Records::default());
            stream.bytes(&path, header)?;
            continue;
        }
        if inode.nlink() != 1 && !inode.is_dir() {
            written.insert(inode.nid(), path.clone());
        }
        let mut records = Records::default();
        for (name, value) in image.xattrs(&inode).map_err(|e| e.of_path(&path))? {
            records.add_xattr(&name, &value);
        }
        let (mut link, mut size) = (Vec::new(), 0);
        let kind = match inode.file_type() {
            FileType::Regular | FileType::Socket => {
                size = inode.size();
                b'0'
            }
            FileType::Symlink => {
                link = image.read_link(&inode).map_err(|e| e.of_path(&path))?;
                b'2'
            }
            FileType::CharDevice => b'3',
            FileType::BlockDevice => b'4',
            FileType::Directory => b'5',
            FileType::Fifo => b'6',
        };
        let mut name = path.clone();
        if inode.is_dir() {
            if name.is_empty() {
                name.push(b'.');
            }
            name.push(b'/');
        }
        stream.bytes(
            &path,
            header(&inode, &name, &link, kind, size).encode(records),
        )?;
        if inode.is_file() {
            done.charge(size, options.max_bytes)?;
            stream.contents(&path, &inode)?;
            let used = narrow(size & 511);
            let padding = BLOCK.saturating_sub(used).checked_rem(BLOCK).unwrap_or(0);
            stream.bytes(&path, vec![0; padding])?;
        }
    }
    Ok(())
}

fn header<'a>(inode: &Inode, path: &'a [u8], link: &'a [u8], kind: u8, size: u64) -> Header<'a> {
    Header {
        path,
        link,
        kind,
        mode: inode.mode().into(),
        uid: inode.uid(),
        gid: inode.gid(),
        size,
        mtime: inode.mtime(),
        device: inode.rdev(),
    }
}
