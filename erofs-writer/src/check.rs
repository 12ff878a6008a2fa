//! Checks that EROFS can store the attributes of an inode, and converts them for the tree.

use crate::chunks::ChunkPlace;
use crate::compress::Contents;
use crate::file_data::{Place, Tail};
use crate::format::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK};
use crate::tree::Inode;
use crate::xattr::XattrStore;
use crate::{
    BlockSize, DeviceNumber, DeviceSlot, Error, FileData, Kind, Metadata, Node, XattrProblem,
};

/// The longest target of a symbolic link (`PATH_MAX` without its NUL).
const SYMLINK_MAX: usize = 4095;

/// An error without its path, which is expensive to compute.
pub(crate) enum Problem {
    Attribute(&'static str, u64),
    SymlinkTarget(Vec<u8>),
    Xattr {
        name: Vec<u8>,
        problem: XattrProblem,
    },
    ForeignData,
    UnknownDevice(u16),
    BeyondDevice {
        start: u64,
        end: u64,
        blocks: u64,
    },
}

impl Problem {
    pub(crate) fn at(self, path: Vec<u8>) -> Error {
        match self {
            Self::Attribute(attribute, value) => Error::Attribute {
                path: path.into(),
                attribute,
                value,
            },
            Self::SymlinkTarget(target) => Error::SymlinkTarget {
                path: path.into(),
                target: target.into(),
            },
            Self::Xattr { name, problem } => Error::Xattr {
                path: path.into(),
                name: name.into(),
                problem,
            },
            Self::ForeignData => Error::ForeignData(path.into()),
            Self::UnknownDevice(device) => Error::UnknownDevice {
                path: path.into(),
                device,
            },
            Self::BeyondDevice { start, end, blocks } => Error::BeyondDevice {
                path: path.into(),
                start,
                end,
                blocks,
            },
        }
    }
}

/// Sets the attributes that every type has.
pub(crate) fn metadata(
    inode: &mut Inode,
    meta: &Metadata,
    xattrs: &mut XattrStore,
) -> Result<(), Problem> {
    within("mode", meta.mode, 0o7777)?;
    within("mtime", meta.mtime.nanos, 999_999_999)?;
    inode.mode = inode.kind() | meta.mode;
    (inode.uid, inode.gid) = (meta.uid, meta.gid);
    inode.set_mtime(meta.mtime);
    inode.xattrs = xattrs.intern(&meta.xattrs).map_err(|(i, problem)| {
        let name = meta.xattrs[i].0.clone();
        Problem::Xattr { name, problem }
    })?;
    Ok(())
}

/// Sets the fields that depend on the type, except a symbolic link's target.
pub(crate) fn node(inode: &mut Inode, node: &Node, space: &Space<'_>) -> Result<(), Problem> {
    match node {
        Node::Directory | Node::Fifo | Node::Socket => {}
        Node::CharDevice(number) | Node::BlockDevice(number) => {
            inode.payload = device_number(*number)?;
        }
        Node::Symlink(target) => {
            if target.is_empty() || target.len() > SYMLINK_MAX {
                return Err(Problem::Attribute("symlink", target.len() as u64));
            }
            if target.contains(&0) {
                return Err(Problem::SymlinkTarget(target.clone()));
            }
            inode.size = target.len() as u64;
        }
        Node::File(data) => {
            space.check(data)?;
            inode.size = data.size;
            match data.place {
                Place::Flat { device, block } => (inode.device, inode.payload) = (device, block),
                Place::Chunks { size, first } => {
                    inode.payload = first;
                    inode.set_chunk_size(size);
                }
                // Whether the contents were compressed is not known yet.
                Place::Piped { index } => {
                    inode.payload = index;
                    inode.flags.compressed = true;
                }
                Place::Tail { index } => {
                    inode.payload = index;
                    inode.flags.inline = true;
                }
                Place::Later { number } => {
                    inode.payload = number;
                    inode.flags.later = true;
                }
            }
        }
    }
    Ok(())
}

/// Returns the type bits of a node's mode.
pub(crate) fn type_bits(node: &Node) -> u16 {
    match node {
        Node::Directory => S_IFDIR,
        Node::File(_) => S_IFREG,
        Node::Symlink(_) => S_IFLNK,
        Node::CharDevice(_) => S_IFCHR,
        Node::BlockDevice(_) => S_IFBLK,
        Node::Fifo => S_IFIFO,
        Node::Socket => S_IFSOCK,
    }
}

/// Returns the type of an inode.
pub(crate) fn kind(inode: &Inode) -> Kind {
    match inode.kind() {
        S_IFDIR => Kind::Directory,
        S_IFLNK => Kind::Symlink,
        S_IFCHR => Kind::CharDevice,
        S_IFBLK => Kind::BlockDevice,
        S_IFIFO => Kind::Fifo,
        S_IFSOCK => Kind::Socket,
        _ => Kind::File,
    }
}

/// The ranges in which contents can lie.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    pub(crate) block_size: BlockSize,
    /// The range of contents in the image itself.
    pub(crate) data_start: u64,
    pub(crate) data_end: u64,
    pub(crate) devices: &'a [DeviceSlot],
    pub(crate) chunks: &'a [ChunkPlace],
    pub(crate) tails: &'a [Tail],
    pub(crate) contents: &'a Contents,
}

impl Space<'_> {
    fn check(&self, data: &FileData) -> Result<(), Problem> {
        within("size", data.size, i64::MAX as u64)?;
        match data.place {
            _ if data.size == 0 => Ok(()),
            Place::Later { .. } => Ok(()),
            Place::Flat { device, block } => self.check_run(device, block, data.size),
            Place::Tail { index } => {
                let tail = self.tails.get(index as usize);
                let known = tail.is_some_and(|tail| tail.size == data.size);
                known.then_some(()).ok_or(Problem::ForeignData)
            }
            Place::Piped { index } => {
                let known = self.contents.size(index) == Some(data.size);
                known.then_some(()).ok_or(Problem::ForeignData)
            }
            Place::Chunks { size, first } => {
                let bytes = size.bytes(self.block_size);
                let count = data.size.div_ceil(bytes);
                let places = (first as usize)
                    .checked_add(count as usize)
                    .and_then(|end| self.chunks.get(first as usize..end))
                    .ok_or(Problem::ForeignData)?;
                for (i, place) in places.iter().enumerate() {
                    if let Some((device, block)) = place.get() {
                        self.check_run(device, block, (data.size - i as u64 * bytes).min(bytes))?;
                    }
                }
                Ok(())
            }
        }
    }

    fn check_run(&self, device: u16, start: u64, size: u64) -> Result<(), Problem> {
        let end = start.saturating_add(self.block_size.count(size));
        let Some(device) = device.checked_sub(1) else {
            let inside = start >= self.block_size.count(self.data_start)
                && end <= self.block_size.count(self.data_end);
            return inside.then_some(()).ok_or(Problem::ForeignData);
        };
        match self.devices.get(usize::from(device)) {
            None => Err(Problem::UnknownDevice(device)),
            Some(&DeviceSlot { blocks, .. }) if end > blocks => {
                Err(Problem::BeyondDevice { start, end, blocks })
            }
            Some(_) => Ok(()),
        }
    }
}

fn within(attribute: &'static str, value: impl Into<u64>, max: u64) -> Result<(), Problem> {
    let value = value.into();
    if value <= max {
        Ok(())
    } else {
        Err(Problem::Attribute(attribute, value))
    }
}

/// A device's number as the kernel's `new_encode_dev`: 12 bits of major, 20 of minor.
fn device_number(number: DeviceNumber) -> Result<u64, Problem> {
    let DeviceNumber { major, minor } = number;
    within("major", major, 0xfff)?;
    within("minor", minor, 0xf_ffff)?;
    Ok(u64::from(
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
    ))
}
