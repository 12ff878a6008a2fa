//! Makes an image of a tar archive: `cargo run --example from_tar [--index] TAR OUT`.
//!
//! With `--index` the image holds no contents: its files' contents stay in the archive, whose
//! members lie in blocks of 512 bytes as those of an image do. Mount it with the archive (on a loop
//! device) as `device=`, or append the archive to it.
//!
//! Whiteouts of container layers are files like any other here.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};

use erofs_writer::{
    Builder, DeviceNumber, DeviceSlot, FileData, Metadata, Node, Options, Timestamp,
};
use tar::{Archive, Entry, EntryType};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    let index = args.first().is_some_and(|arg| arg == "--index");
    args.drain(..usize::from(index));
    let [tar, out] = &args[..] else {
        return Err("usage: from_tar [--index] TAR OUT".into());
    };
    let tar = File::open(tar)?;
    let mut image = Builder::create(out, Options::default())?;
    let device = match index {
        true => {
            let blocks = tar.metadata()?.len().div_ceil(512);
            Some(image.add_device(DeviceSlot::new([b'0'; 64], blocks))?)
        }
        false => None,
    };

    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        let meta = metadata(&mut entry)?;
        let header = entry.header();
        let link = entry.link_name_bytes().unwrap_or_default().into_owned();
        let major = header.device_major()?.unwrap_or(0);
        let minor = header.device_minor()?.unwrap_or(0);
        let node = match header.entry_type() {
            EntryType::Directory => Node::Directory,
            EntryType::Symlink => Node::Symlink(link),
            EntryType::Char => Node::CharDevice(DeviceNumber { major, minor }),
            EntryType::Block => Node::BlockDevice(DeviceNumber { major, minor }),
            EntryType::Fifo => Node::Fifo,
            EntryType::Link => {
                let target = image.lookup(&link).ok_or("a hard link before its target")?;
                image.link_path(&path, target)?;
                continue;
            }
            EntryType::Regular | EntryType::Continuous => Node::File(match device {
                Some(device) => {
                    FileData::on_device(device, entry.raw_file_position() / 512, entry.size())
                }
                None => {
                    let mut data = image.data();
                    io::copy(&mut entry, &mut data)?;
                    data.finish()?
                }
            }),
            _ => continue,
        };
        image.add_path(&path, meta, node)?;
    }
    let (_, summary) = image.finish()?;
    println!("{summary:#?}");
    Ok(())
}

fn metadata<R: Read>(entry: &mut Entry<'_, R>) -> Result<Metadata, Box<dyn Error>> {
    let mut xattrs = Vec::new();
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            xattrs.push((name.to_vec(), record.value_bytes().to_vec()));
        }
    }
    let header = entry.header();
    Ok(Metadata::new((header.mode()? & 0o7777) as u16)
        .uid(header.uid()?.try_into()?)
        .gid(header.gid()?.try_into()?)
        .mtime(Timestamp {
            secs: header.mtime()?.try_into()?,
            nanos: 0,
        })
        .xattrs(xattrs))
}
