//! Merges the names of images that this crate wrote, without copying contents:
//! `cargo run --example over_images OUT LOWEST … HIGHEST`.
//!
//! Mount the result with each image as a `device=`, or concatenate all of them after it. A name in
//! a higher image replaces the same name in a lower one, unless both are directories; whiteouts are
//! left to those who know container layers.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::File;

use erofs_reader::{BytePath, FileType, Image, Inode, Source};
use erofs_writer::{
    BlockSize, Builder, DeviceId, DeviceNumber, DeviceSlot, FileData, Metadata, Node, Options,
    Timestamp,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let out = File::create(
        args.next()
            .ok_or("usage: over_images OUT LOWEST … HIGHEST")?,
    )?;
    let layers = args
        .map(|path| Ok(Image::open(File::open(path)?)?))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let block_size = layers
        .first()
        .ok_or("no images to merge")?
        .superblock()
        .block_size
        .bytes();
    let options = Options::default().block_size(BlockSize::new(block_size.try_into()?)?);
    let mut merged = Builder::new(out, options)?;

    let mut names = BTreeMap::<BytePath, (usize, Inode)>::new();
    let mut devices = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let blocks = layer.device_size(0).unwrap_or_default() / block_size;
        devices.push(merged.add_device(DeviceSlot::new([b'0' + (i % 10) as u8; 64], blocks))?);
        for found in layer.walk() {
            let (path, inode) = found?;
            names.insert(path, (i, inode));
        }
    }
    let mut links = HashMap::new();
    for (path, (i, inode)) in names {
        let layer = &layers[i];
        if let Some(&first) = links.get(&(i, inode.nid())) {
            merged.link_path(&path, first)?;
            continue;
        }
        let (secs, nanos) = inode.mtime().into();
        let meta = Metadata::new(inode.mode())
            .uid(inode.uid())
            .gid(inode.gid())
            .mtime(Timestamp { secs, nanos })
            .xattrs(layer.xattrs(&inode)?);
        let node = node(layer, &inode, devices[i], block_size)?;
        let added = merged.add_path(&path, meta, node)?;
        if !inode.is_dir() {
            links.insert((i, inode.nid()), added);
        }
    }
    let (_, summary) = merged.finish()?;
    println!("{summary:#?}");
    Ok(())
}

fn node(
    layer: &Image<File>,
    inode: &Inode,
    device: DeviceId,
    block_size: u64,
) -> Result<Node, Box<dyn Error>> {
    let (major, minor) = inode.rdev().into();
    Ok(match inode.file_type() {
        FileType::Directory => Node::Directory,
        FileType::Symlink => Node::Symlink(layer.read_link(inode)?),
        FileType::CharDevice => Node::CharDevice(DeviceNumber { major, minor }),
        FileType::BlockDevice => Node::BlockDevice(DeviceNumber { major, minor }),
        FileType::Fifo => Node::Fifo,
        FileType::Socket => Node::Socket,
        FileType::Regular => Node::File(match &layer.extents(inode)?[..] {
            [] => FileData::EMPTY,
            [extent] => match extent.source {
                Source::Data { offset, .. } if offset % block_size == 0 => {
                    FileData::on_device(device, offset / block_size, inode.size())
                }
                _ => return Err("contents do not lie in whole blocks".into()),
            },
            _ => return Err("contents do not lie in one piece".into()),
        }),
    })
}
