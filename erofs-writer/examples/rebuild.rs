//! Makes an image again, with its contents compressed or not:
//! `cargo run --example rebuild IMAGE OUT [lz4|zstd|deflate|lzma]`.
//!
//! Everything is read through erofs-reader, so the image may be of any maker, in blocks of any size
//! and compressed in any way. Equal contents are stored once, and holes stay holes.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io;

use erofs_reader::{FileType, Image, Inode, Source};
use erofs_writer::{
    BlockSize, Builder, ChunkSize, Compression, DeviceNumber, FileData, Metadata, Node, Options,
    Timestamp,
};

const BLOCK_SIZE: BlockSize = BlockSize::B4096;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let (from, out, algorithm) = match &args[..] {
        [from, out] => (from, out, None),
        [from, out, algorithm] => (from, out, Some(algorithm.to_string_lossy().parse()?)),
        _ => return Err("usage: rebuild IMAGE OUT [lz4|zstd|deflate|lzma]".into()),
    };
    let from = Image::open(File::open(from)?)?;
    let options = Options::default()
        .block_size(BLOCK_SIZE)
        .compression(algorithm.map(Compression::new))
        .inline_tails(true);
    let mut image = Builder::create(out, options)?;

    let mut links = HashMap::new();
    for found in from.walk() {
        let (path, inode) = found?;
        if let Some(&first) = links.get(&inode.nid()) {
            image.link_path(&path, first)?;
            continue;
        }
        let (secs, nanos) = inode.mtime().into();
        let meta = Metadata::new(inode.mode())
            .uid(inode.uid())
            .gid(inode.gid())
            .mtime(Timestamp { secs, nanos })
            .xattrs(from.xattrs(&inode)?);
        let (major, minor) = inode.rdev().into();
        let node = match inode.file_type() {
            FileType::Directory => Node::Directory,
            FileType::Regular => Node::File(contents(&from, &inode, &mut image)?),
            FileType::Symlink => Node::Symlink(from.read_link(&inode)?),
            FileType::CharDevice => Node::CharDevice(DeviceNumber { major, minor }),
            FileType::BlockDevice => Node::BlockDevice(DeviceNumber { major, minor }),
            FileType::Fifo => Node::Fifo,
            FileType::Socket => Node::Socket,
        };
        let added = image.add_path(&path, meta, node)?;
        if !inode.is_dir() {
            links.insert(inode.nid(), added);
        }
    }
    let (_, summary) = image.finish()?;
    println!("{summary:#?}");
    Ok(())
}

/// Copies a file's contents, in chunks where they have holes.
fn contents(
    from: &Image<File>,
    inode: &Inode,
    image: &mut Builder<File>,
) -> Result<FileData, Box<dyn Error>> {
    let extents = from.extents(inode)?;
    let mut file = from.file(inode)?;
    if extents.iter().all(|extent| extent.source != Source::Hole) {
        let mut data = image.data();
        io::copy(&mut file, &mut data)?;
        return Ok(data.finish()?);
    }
    let mut data = image.data_in_chunks(ChunkSize::for_length(inode.size(), BLOCK_SIZE));
    for extent in extents {
        if extent.source == Source::Hole {
            data.hole(extent.length)?;
        } else {
            io::Seek::seek(&mut file, io::SeekFrom::Start(extent.logical))?;
            io::copy(&mut io::Read::take(&mut file, extent.length), &mut data)?;
        }
    }
    Ok(data.finish()?)
}
