//! Writes a folder of an ext4 image as a tar archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use blockbox_tar::{Body, Head, Timestamp, Writer};
use ext4_writer::{Inode, Kind, Ranges, Reader};

use crate::error::{Error, Result};

/// Writes the contents of the top-level folder `folder` of the ext4 image `image`, which is at
/// `path`, to `out` as a tar archive: with owners, modes, times, extended attributes, hard links
/// and holes, in the order of the names' bytes. The journal must have been replayed.
///
/// # Errors
///
/// If the image has no such folder or is damaged; errors of writing.
pub fn folder(image: &File, path: &Path, folder: &[u8], out: impl Write) -> Result<()> {
    let reader = Reader::open(BufReader::new(image)).map_err(failed(path))?;
    let top = reader.symlink_metadata(folder).map_err(failed(path))?;
    let top = top.number();
    let mut export = Export {
        reader: &reader,
        path,
        tar: Writer::new(BufWriter::new(out)),
        linked: HashMap::new(),
    };
    export.entry(b"./".to_vec(), top)?;
    let mut pending = vec![(Vec::new(), top)];
    while let Some((above, number)) = pending.pop() {
        let inode = reader.inode(number).map_err(failed(path))?;
        let mut entries = reader.read_dir(&inode).map_err(failed(path))?;
        entries.sort();
        let before = pending.len();
        for (name, number) in entries {
            let mut path: Vec<u8> = above.clone();
            path.extend_from_slice(&name);
            if export.entry(path.clone(), number)? {
                path.push(b'/');
                pending.push((path, number));
            }
        }
        pending[before..].reverse();
    }
    export.tar.finish().map_err(Error::io("the archive"))?;
    Ok(())
}

fn failed(path: &Path) -> impl Fn(ext4_writer::Error) -> Error {
    |source| Error::Ext4 {
        path: path.to_owned(),
        source,
    }
}

struct Export<'a, W: Write> {
    reader: &'a Reader<BufReader<&'a File>>,
    path: &'a Path,
    tar: Writer<W>,
    /// The first name of each file with several names, by inode number.
    linked: HashMap<u32, Vec<u8>>,
}

impl<W: Write> Export<'_, W> {
    /// Writes one entry. Returns whether it is a directory.
    fn entry(&mut self, name: Vec<u8>, number: u32) -> Result<bool> {
        let (reader, failed) = (self.reader, failed(self.path));
        let written = Error::io("the archive");
        let inode: Inode = reader.inode(number).map_err(&failed)?;
        let of = reader.attributes(&inode).map_err(&failed)?;
        let mtime = Timestamp {
            secs: of.mtime.secs,
            nanos: of.mtime.nanos,
        };
        let head = Head {
            path: &name,
            mode: of.mode,
            uid: of.uid,
            gid: of.gid,
            mtime,
            xattrs: of.xattrs,
        };
        // Sockets are left out under all their names.
        let linked = !matches!(inode.kind(), Kind::Directory | Kind::Socket);
        if linked && inode.nlink() > 1 {
            if let Some(first) = self.linked.get(&number) {
                let link = Body::HardLink(first);
                self.tar.entry(&head, link).map_err(written)?;
                return Ok(false);
            }
            self.linked.insert(number, name.clone());
        }
        let device = inode.device();
        let target;
        let body = match inode.kind() {
            Kind::File => {
                let ranges = reader.ranges(&inode).map_err(&failed)?;
                let file = reader.file(&inode).map_err(&failed)?;
                let data = Ranges::new(file, ranges.clone());
                let file = self.tar.file(&head, inode.size(), &ranges, data);
                file.map_err(written)?;
                return Ok(false);
            }
            Kind::Directory => Body::Directory,
            Kind::Symlink => {
                target = reader.read_link(&inode).map_err(&failed)?;
                Body::Symlink(&target)
            }
            Kind::CharDevice => Body::CharDevice(device.major, device.minor),
            Kind::BlockDevice => Body::BlockDevice(device.major, device.minor),
            Kind::Fifo => Body::Fifo,
            // A tar archive cannot hold a socket; its server creates it again.
            Kind::Socket => return Ok(false),
        };
        self.tar.entry(&head, body).map_err(written)?;
        Ok(inode.kind() == Kind::Directory)
    }
}
