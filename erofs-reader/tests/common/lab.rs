//! Images with chosen bytes changed.

use std::io::{Cursor, Write};

use erofs_reader::{Image, Source};
use erofs_writer::{Builder, DeviceNumber, DeviceSlot, Metadata, Node, Options};

/// Where the superblock begins.
pub(crate) const SUPER: usize = 1024;

/// An image in memory, to be damaged.
#[derive(Clone)]
pub(crate) struct Lab(pub(crate) Vec<u8>);

impl Lab {
    /// A small image of everything: 512-byte blocks, extended inodes, two devices in its table.
    pub(crate) fn new() -> Self {
        let options = Options::default().inodes(erofs_writer::InodeLayout::Extended);
        let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
        for name in [b'a', b'b'] {
            let mut tag = [0; 64];
            tag.fill(name);
            builder.add_device(DeviceSlot::new(tag, 8)).unwrap();
        }
        let mut data = builder.data();
        data.write_all(&[b'x'; 1000]).unwrap();
        let contents = data.finish().unwrap();
        let mut add = |path: &str, xattrs: &[(&str, &str)], node: Node| {
            let xattrs = xattrs
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect();
            let meta = Metadata::new(0o755).xattrs(xattrs);
            builder.add_path(path.as_bytes(), meta, node).unwrap()
        };
        let file = add(
            "file",
            &[("user.one", "1"), ("user.two", "2")],
            Node::File(contents),
        );
        add("other", &[], Node::File(contents));
        for shared in ["shared-a", "shared-b", "shared-c"] {
            let xattr = (
                "user.shared",
                "a value that is worth sharing between inodes",
            );
            add(shared, &[xattr], Node::File(contents));
        }
        add("dir", &[], Node::Directory);
        for name in ["dir/aa", "dir/bb", "dir/cc"] {
            add(name, &[], Node::File(contents));
        }
        add("dir/sub", &[], Node::Directory);
        add("link", &[], Node::Symlink(b"file".to_vec()));
        add(
            "null",
            &[],
            Node::CharDevice(DeviceNumber { major: 1, minor: 3 }),
        );
        builder.link_path(b"hard", file).unwrap();
        let (out, _) = builder.finish().unwrap();
        let lab = Self(out.into_inner());
        assert_eq!(lab.image().check().findings, []);
        lab
    }

    pub(crate) fn image(&self) -> Image<&[u8]> {
        Image::open(&self.0[..]).unwrap()
    }

    /// Where the inode at `path` begins.
    pub(crate) fn inode(&self, path: &str) -> usize {
        let inode = self.image().symlink_metadata(path).unwrap();
        usize::try_from(inode.position()).unwrap()
    }

    /// Where the data of the inode at `path` begins.
    pub(crate) fn data(&self, path: &str) -> usize {
        let image = self.image();
        let inode = image.symlink_metadata(path).unwrap();
        let offset = match image.extents(&inode).unwrap()[0].source {
            Source::Data { offset, .. } | Source::Inline { offset } => offset,
            other => panic!("{other:?}"),
        };
        usize::try_from(offset).unwrap()
    }

    /// Where the entry of `name` in the directory at `dir` begins, and where its name does.
    pub(crate) fn dirent(&self, dir: &str, name: &str) -> (usize, usize) {
        let block = self.data(dir);
        let nameoff = |at: usize| usize::from(u16::from_le_bytes([self.0[at + 8], self.0[at + 9]]));
        for at in (block..block + nameoff(block)).step_by(12) {
            let start = block + nameoff(at);
            if self.0[start..].starts_with(name.as_bytes()) {
                return (at, start);
            }
        }
        panic!("no {name} in {dir}");
    }

    pub(crate) fn nid(&self, path: &str) -> u64 {
        self.image().symlink_metadata(path).unwrap().nid().get()
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes the superblock's checksum right again.
    pub(crate) fn repair(&mut self) {
        let bits = u32::from(self.0[SUPER + 12]);
        // With a size that makes no sense there is nothing to compute the checksum over.
        let length = match 1_usize.checked_shl(bits).unwrap_or(0) {
            size if size > SUPER => size - SUPER,
            size => size,
        };
        if let Some(block) = self.0.get_mut(SUPER..SUPER + length)
            && block.len() >= 8
        {
            block[4..8].fill(0);
            let checksum = !crc32c::crc32c(block);
            block[4..8].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}
