//! The tree as a tar stream.

use std::collections::HashMap;
use std::io::Write;

use super::Extracted;
use super::pax::{BLOCK, Header, Records};
use crate::error::Error;
use crate::image::Image;
use crate::inode::{FileType, Inode, Nid};
use crate::num::{narrow, wide};
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
/// # Errors
///
/// Where the image is damaged: what was written before is then no whole archive. [`Error::Output`] where `out` fails,
/// [`Error::Limit`] where there is more than `options.max_bytes`.
pub fn extract_to_tar<R: ReadAt, W: Write>(
    image: &Image<R>,
    mut out: W,
    options: &TarOptions,
) -> Result<Extracted, Error> {
    let mut done = Extracted::default();
    // Where the inodes with several names were written.
    let mut written: HashMap<Nid, Vec<u8>> = HashMap::new();
    for step in image.walk() {
        let (path, inode) = step?;
        if inode.file_type() == FileType::Socket {
            done.skipped.push(path);
            continue;
        }
        done.entries = done.entries.saturating_add(1);
        let output = |source| Error::Output {
            path: path.clone(),
            source,
        };
        if let Some(first) = written.get(&inode.nid()) {
            let header = header(&inode, &path, first, b'1', 0).encode(Records::default());
            out.write_all(&header).map_err(output)?;
            continue;
        }
        if inode.nlink() != 1 && !inode.is_dir() {
            written.insert(inode.nid(), path.clone());
        }
        let mut records = Records::default();
        for (name, value) in image.xattrs(&inode)? {
            records.add_xattr(&name, &value);
        }
        let (mut link, mut size) = (Vec::new(), 0);
        let kind = match inode.file_type() {
            FileType::Regular | FileType::Socket => {
                size = inode.size();
                b'0'
            }
            FileType::Symlink => {
                link = image.read_link(&inode)?;
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
        let header = header(&inode, &name, &link, kind, size).encode(records);
        out.write_all(&header).map_err(output)?;
        if inode.is_file() {
            done.charge(size, options.max_bytes)?;
            write_contents(image, &inode, &path, &mut out)?;
        }
    }
    out.write_all(&[0; BLOCK * 2])
        .and_then(|()| out.flush())
        .map_err(|source| Error::Output {
            path: Vec::new(),
            source,
        })?;
    Ok(done)
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

fn write_contents<R: ReadAt>(
    image: &Image<R>,
    inode: &Inode,
    path: &[u8],
    out: &mut impl Write,
) -> Result<(), Error> {
    let mut file = image.file(inode)?;
    let mut buffer = vec![0; narrow(inode.size().min(1 << 20))];
    let mut offset = 0;
    let output = |source| Error::Output {
        path: path.to_vec(),
        source,
    };
    while offset < inode.size() {
        let n = file.read_at(&mut buffer, offset)?;
        if n == 0 {
            break;
        }
        out.write_all(buffer.get(..n).unwrap_or_default())
            .map_err(output)?;
        offset = offset.saturating_add(wide(n));
    }
    let used = narrow(inode.size() & 511);
    let padding = BLOCK.saturating_sub(used).checked_rem(BLOCK).unwrap_or(0);
    out.write_all([0; BLOCK].get(..padding).unwrap_or_default())
        .map_err(output)
}
