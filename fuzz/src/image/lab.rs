//! An image being built, and what it is to hold.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use erofs_reader::FileType;
use erofs_writer::{
    BlockSize, Chunk, ChunkSize, DeviceId, DeviceNumber, DeviceSlot, Error, FileData, Metadata,
    Node, NodeId, Options,
};

use super::input::{Input, metadata, name};

/// Bytes of all contents of an image together.
const CONTENTS: usize = 1 << 18;
/// The most symbolic links that are followed on one path.
const SYMLINKS: usize = 40;
/// Blocks of a device.
const DEVICE_BLOCKS: u64 = 8;

pub(super) type Builder = erofs_writer::Builder<Cursor<Vec<u8>>>;

/// What a node is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Device(FileType, (u32, u32)),
    Other(FileType),
}

impl Kind {
    pub(super) fn file_type(&self) -> FileType {
        match self {
            Self::Directory => FileType::Directory,
            Self::File(_) => FileType::Regular,
            Self::Symlink(_) => FileType::Symlink,
            Self::Device(kind, _) | Self::Other(kind) => *kind,
        }
    }
}

pub(super) struct Expected {
    pub(super) id: NodeId,
    pub(super) meta: Metadata,
    pub(super) kind: Kind,
    pub(super) names: u32,
}

/// An image being built, and what it is to hold.
pub(super) struct Lab {
    pub(super) builder: Builder,
    pub(super) devices: Vec<DeviceId>,
    pub(super) block_size: BlockSize,
    pub(super) nodes: Vec<Expected>,
    /// By path, which names are there.
    pub(super) names: BTreeMap<Vec<u8>, usize>,
    /// Contents that were stored, some of which no node has.
    pub(super) stored: Vec<(FileData, Vec<u8>)>,
    /// Contents that are asked for in the end.
    later: Vec<Vec<u8>>,
    pub(super) room: usize,
}

impl Lab {
    pub(super) fn new(options: Options, dedupe: bool, devices: usize) -> Option<Self> {
        let block_size = options.block_size;
        let out = Cursor::new(Vec::new());
        let builder = match dedupe {
            true => Builder::with_dedupe(out, options),
            false => Builder::new(out, options),
        };
        // More than 2047 blocks, or 1 MiB, are no cluster; and nanoseconds may be too many.
        let mut builder = builder
            .inspect_err(|error| {
                assert!(
                    matches!(error, Error::ClusterSize(_) | Error::Epoch(_)),
                    "{error}"
                )
            })
            .ok()?;
        let mut add = |tag| {
            let tag = [tag; 64];
            let blocks = DEVICE_BLOCKS;
            builder
                .add_device(DeviceSlot::new(tag, blocks))
                .expect("no data yet")
        };
        let devices = (0..devices).map(|i| add(b'0' + i as u8)).collect();
        let root = Expected {
            id: builder.root(),
            meta: Metadata::new(0o755),
            kind: Kind::Directory,
            names: 1,
        };
        Some(Self {
            builder,
            devices,
            block_size,
            nodes: vec![root],
            names: BTreeMap::from([(Vec::new(), 0)]),
            stored: Vec::new(),
            later: Vec::new(),
            room: CONTENTS,
        })
    }

    /// The bytes of a device, which are all the same within a block and different between blocks.
    pub(super) fn device_bytes(&self, device: usize) -> Vec<u8> {
        let block = self.block_size.bytes() as usize;
        let byte = |i: usize| (device * 16 + i / block + 1) as u8;
        (0..block * DEVICE_BLOCKS as usize).map(byte).collect()
    }

    /// Contents of any kind that compresses, or not, or is known already.
    fn contents(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let shape = input.byte();
        let length = match shape & 3 {
            0 => usize::from(input.byte()),
            1 => usize::from(input.byte()) * 257,
            2 => {
                self.block_size.bytes() as usize * usize::from(shape >> 5)
                    + usize::from(shape >> 2 & 1)
            }
            _ => usize::from(input.byte()) << (shape >> 4 & 7),
        };
        let length = length.min(self.room);
        self.room -= length;
        let seed = input.byte();
        let mut state = u32::from(seed) | 1;
        match shape >> 2 & 3 {
            0 => vec![seed; length],
            1 => (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect(),
            2 => {
                let words: &[u8] = b"all work and no play makes the image a dull one; ";
                let skip = usize::from(seed) % words.len();
                words
                    .iter()
                    .copied()
                    .cycle()
                    .skip(skip)
                    .take(length)
                    .collect()
            }
            _ => match self.stored.get(usize::from(seed)) {
                // A part of others, at another place.
                Some((_, known)) => {
                    let start = usize::from(shape).min(known.len());
                    [input.bytes(usize::from(shape >> 5)), &known[start..]].concat()
                }
                None => input.bytes(length).to_vec(),
            },
        }
    }

    /// Stores contents in one of the ways there are.
    fn data(&mut self, input: &mut Input<'_>) -> (FileData, Vec<u8>) {
        let way = input.byte();
        match way & 7 {
            0..=2 => {
                let contents = self.contents(input);
                let piece = usize::from(input.byte()) * 97 + 1;
                let mut data = self.builder.data();
                for piece in contents.chunks(piece) {
                    data.write_all(piece).expect("in memory");
                }
                let data = data.finish().expect("in memory");
                assert_eq!(data.size(), contents.len() as u64);
                (data, contents)
            }
            3 | 4 => self.holes(input, way),
            5 if !self.devices.is_empty() => self.on_device(input, way),
            6 => {
                let contents = self.contents(input);
                self.later.push(contents.clone());
                (FileData::later(self.later.len() as u64 - 1), contents)
            }
            // Once more what is there.
            _ => match self.stored.get(usize::from(way >> 3)) {
                Some(stored) => stored.clone(),
                None => (FileData::EMPTY, Vec::new()),
            },
        }
    }

    /// A file with holes, in chunks or, where `way` says so, without.
    fn holes(&mut self, input: &mut Input<'_>, way: u8) -> (FileData, Vec<u8>) {
        let mut steps = Vec::new();
        for _ in 0..way >> 4 {
            let hole = usize::from(input.byte()) << (way >> 5);
            let hole = hole.min(self.room);
            self.room -= hole;
            steps.push((hole, self.contents(input)));
        }
        let mut expected = Vec::new();
        for (hole, contents) in &steps {
            expected.resize(expected.len() + hole, 0);
            expected.extend_from_slice(contents);
        }
        let data = if way & 7 == 3 {
            let size = ChunkSize::from_block_bits(way >> 3 & 3).expect("few bits");
            let mut data = self.builder.data_in_chunks(size);
            for (hole, contents) in &steps {
                data.hole(*hole as u64).expect("in memory");
                data.write_all(contents).expect("in memory");
            }
            data.finish()
        } else {
            let mut data = self.builder.data();
            for (hole, contents) in &steps {
                data.hole(*hole as u64).expect("in memory");
                data.write_all(contents).expect("in memory");
            }
            data.finish()
        };
        (data.expect("in memory"), expected)
    }

    /// Contents on a device, in one piece or in chunks.
    fn on_device(&mut self, input: &mut Input<'_>, way: u8) -> (FileData, Vec<u8>) {
        let device = usize::from(way >> 3) % self.devices.len();
        let bytes = self.device_bytes(device);
        let block = self.block_size.bytes() as usize;
        if way & 0x80 != 0 {
            let start = input.below(DEVICE_BLOCKS as usize);
            let size = (usize::from(input.byte()) * 31).min(bytes.len() - start * block);
            let data = FileData::on_device(self.devices[device], start as u64, size as u64);
            return (data, bytes[start * block..][..size].to_vec());
        }
        let count = input.below(6);
        let mut chunks = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..count {
            let at = input.below(DEVICE_BLOCKS as usize + 1);
            if at < DEVICE_BLOCKS as usize {
                chunks.push(Chunk::OnDevice {
                    device: self.devices[device],
                    block: at as u64,
                });
                expected.extend_from_slice(&bytes[at * block..][..block]);
            } else {
                chunks.push(Chunk::Hole);
                expected.resize(expected.len() + block, 0);
            }
        }
        expected.truncate(expected.len().saturating_sub(input.below(block)));
        let size = ChunkSize::from_block_bits(0).expect("few bits");
        let data = self
            .builder
            .chunks_on_devices(size, expected.len() as u64, chunks)
            .expect("few chunks");
        (data, expected)
    }

    fn node(&mut self, input: &mut Input<'_>) -> (Node, Kind) {
        let choice = input.byte();
        let (major, minor) = match choice & 0x80 {
            0 => (u32::from(choice), u32::from(choice) << 8),
            _ => (
                input.number() as u32 & 0x1fff,
                input.number() as u32 & 0x1f_ffff,
            ),
        };
        match choice % 9 {
            0..=2 => {
                let (data, contents) = self.data(input);
                self.stored.push((data, contents.clone()));
                (Node::File(data), Kind::File(contents))
            }
            3 | 4 => (Node::Directory, Kind::Directory),
            5 => {
                let length = usize::from(input.byte()) * usize::from(choice >> 4);
                let target = match choice & 0x10 {
                    0 => input.bytes(length % 64).to_vec(),
                    _ => vec![b't'; length],
                };
                (Node::Symlink(target.clone()), Kind::Symlink(target))
            }
            6 => {
                let kind = Kind::Device(FileType::CharDevice, (major, minor));
                (Node::CharDevice(DeviceNumber { major, minor }), kind)
            }
            7 => {
                let kind = Kind::Device(FileType::BlockDevice, (major, minor));
                (Node::BlockDevice(DeviceNumber { major, minor }), kind)
            }
            _ if choice & 0x40 == 0 => (Node::Fifo, Kind::Other(FileType::Fifo)),
            _ => (Node::Socket, Kind::Other(FileType::Socket)),
        }
    }

    /// A directory that is there, and its path.
    fn directory(&self, input: &mut Input<'_>) -> (NodeId, Vec<u8>) {
        let wanted = usize::from(input.byte());
        let mut directories = self
            .names
            .iter()
            .filter(|(_, node)| self.nodes[**node].kind == Kind::Directory);
        let count = directories.clone().count();
        let (path, &node) = directories.nth(wanted % count).expect("the root at least");
        (self.nodes[node].id, path.clone())
    }

    pub(super) fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0..=3 => {
                let (parent, path) = self.directory(input);
                let (name, meta) = (name(input), metadata(input));
                let (node, kind) = self.node(input);
                if let Ok(id) = self.builder.add(parent, &name, meta.clone(), node) {
                    self.added(join(&path, &name), id, meta, kind);
                }
            }
            4 => {
                let (_, mut path) = self.directory(input);
                for _ in 0..=input.below(3) {
                    path = join(&path, &name(input));
                }
                let meta = metadata(input);
                let (node, kind) = self.node(input);
                let added = self.builder.add_path(&path, meta.clone(), node);
                let resolved = self.implied(&path);
                if let Ok(id) = added {
                    self.added(resolved.expect("a path that was taken"), id, meta, kind);
                }
            }
            5 => {
                let (parent, path) = self.directory(input);
                let name = name(input);
                let target = input.below(self.nodes.len());
                let id = self.nodes[target].id;
                if self.builder.link(parent, &name, id).is_ok() {
                    self.nodes[target].names += 1;
                    let before = self.names.insert(join(&path, &name), target);
                    assert_eq!(before, None);
                }
            }
            6 => {
                let target = input.below(self.nodes.len());
                let meta = metadata(input);
                let id = self.nodes[target].id;
                if self.builder.set_metadata(id, meta.clone()).is_ok() {
                    self.nodes[target].meta = meta;
                }
            }
            _ => {
                // Given up halfway.
                let contents = self.contents(input);
                let mut data = self.builder.data();
                data.write_all(&contents).expect("in memory");
            }
        }
    }

    /// Stores what is asked for in the end.
    pub(super) fn store_later(&mut self) {
        let later = &self.later;
        let stored = self.builder.store_later(|image, number| {
            let mut data = image.data();
            data.write_all(&later[number as usize])?;
            data.finish()
        });
        stored.expect("in memory");
    }

    fn added(&mut self, path: Vec<u8>, id: NodeId, meta: Metadata, kind: Kind) {
        if let Some(&known) = self.names.get(&path) {
            // A directory that was only on the way, or the root.
            assert_eq!((&kind, id), (&Kind::Directory, self.nodes[known].id));
            self.nodes[known].meta = meta;
            return;
        }
        self.names.insert(path, self.nodes.len());
        self.nodes.push(Expected {
            id,
            meta,
            kind,
            names: 1,
        });
    }

    /// Takes in the directories that were made on the way to `path`. Returns the path without
    /// symbolic links where the last component lies, unless a component before it is missing or not
    /// a directory.
    fn implied(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        let mut left = components(path);
        let last = left.pop().unwrap_or_default();
        left.reverse();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut followed = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                at.pop();
                continue;
            }
            at.push(name);
            let here = at.join(&b'/');
            if !self.names.contains_key(&here) {
                let id = self.builder.lookup(&here)?;
                self.added(here.clone(), id, Metadata::new(0o755), Kind::Directory);
            }
            match &self.nodes[self.names[&here]].kind {
                Kind::Directory => {}
                Kind::Symlink(target) => {
                    followed += 1;
                    if followed > SYMLINKS {
                        return None;
                    }
                    at.pop();
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    left.extend(components(target).into_iter().rev());
                }
                _ => return None,
            }
        }
        Some(join(&at.join(&b'/'), &last))
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        _ => [path, b"/", name].concat(),
    }
}

/// The names of a path that `add_path` looks at.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}
