//! Makes an image of a directory: `cargo run --example from_directory DIR OUT`, or with its files
//! compressed, `cargo run --features zstd --example from_directory DIR OUT zstd`.
//!
//! Takes over modes, owners, times and hard links; std knows no xattrs.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(unix)]
    return unix::main();
    #[cfg(not(unix))]
    return Err("needs a Unix file system to take attributes from".into());
}

#[cfg(unix)]
mod unix {
    use std::collections::HashMap;
    use std::error::Error;
    use std::fs::{self, File};
    use std::io;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::path::{Path, PathBuf};

    use erofs_writer::{
        BlockSize, Builder, Compression, DeviceNumber, FileData, Metadata, Node, Options, Timestamp,
    };

    pub(crate) fn main() -> Result<(), Box<dyn Error>> {
        let mut args = std::env::args_os().skip(1).map(PathBuf::from);
        let (Some(source), Some(out)) = (args.next(), args.next()) else {
            return Err("usage: from_directory DIR OUT [lz4|zstd|deflate|lzma]".into());
        };
        let mut options = Options::default();
        if let Some(algorithm) = args.next() {
            let algorithm = algorithm.to_string_lossy().parse()?;
            let mut compression = Compression::new(algorithm);
            compression.cluster_size = 65_536;
            options.compression = Some(compression);
            options.block_size = BlockSize::B4096;
            options.tail_packing = true;
        }
        let mut image = Builder::create(out, options)?;

        let root = image.root();
        image.set_metadata(root, metadata(&fs::symlink_metadata(&source)?))?;
        let mut known = HashMap::new();
        let mut files = Vec::new();
        let mut pending = vec![(source, root)];
        while let Some((directory, parent)) = pending.pop() {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                let (path, name) = (entry.path(), entry.file_name());
                let status = fs::symlink_metadata(&path)?;
                let inode = (status.dev(), status.ino());
                if let Some(&first) = known.get(&inode) {
                    image.link(parent, name.as_bytes(), first)?;
                    continue;
                }
                let node = node(&path, &status, &mut files)?;
                let added = image.add(parent, name.as_bytes(), metadata(&status), node)?;
                if status.is_dir() {
                    pending.push((path, added));
                } else if status.nlink() > 1 {
                    known.insert(inode, added);
                }
            }
        }
        // In the order of the tree: so the image does not depend on the order in which the file
        // system told the names.
        image.store_later(|image, number| -> Result<_, Box<dyn Error>> {
            let mut data = image.data();
            io::copy(&mut File::open(&files[number as usize])?, &mut data)?;
            Ok(data.finish()?)
        })?;
        let (_, summary) = image.finish()?;
        println!("{summary:#?}");
        Ok(())
    }

    fn node(
        path: &Path,
        status: &fs::Metadata,
        files: &mut Vec<PathBuf>,
    ) -> Result<Node, Box<dyn Error>> {
        let kind = status.file_type();
        let (major, minor) = device(status.rdev());
        Ok(if kind.is_dir() {
            Node::Directory
        } else if kind.is_file() {
            files.push(path.to_owned());
            Node::File(FileData::later(files.len() as u64 - 1))
        } else if kind.is_symlink() {
            Node::Symlink(fs::read_link(path)?.into_os_string().into_vec())
        } else if kind.is_char_device() {
            Node::CharDevice(DeviceNumber { major, minor })
        } else if kind.is_block_device() {
            Node::BlockDevice(DeviceNumber { major, minor })
        } else if kind.is_fifo() {
            Node::Fifo
        } else {
            Node::Socket
        })
    }

    fn metadata(status: &fs::Metadata) -> Metadata {
        Metadata::new((status.mode() & 0o7777) as u16)
            .uid(status.uid())
            .gid(status.gid())
            .mtime(Timestamp {
                secs: status.mtime(),
                nanos: status.mtime_nsec() as u32,
            })
    }

    /// glibc's `gnu_dev_major` and `gnu_dev_minor`.
    fn device(rdev: u64) -> (u32, u32) {
        let major = (rdev >> 8 & 0xfff) | (rdev >> 32 & !0xfff);
        let minor = (rdev & 0xff) | (rdev >> 12 & !0xff);
        (major as u32, minor as u32)
    }
}
