//! Any bytes as options and entries of an image: what the builder takes must be what the reader finds, without a fault.
#![no_main]

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::num::NonZeroUsize;

use erofs_reader::{CheckOptions, FileType, Image, Inode};
use erofs_writer::{
    Addresses, Algorithm, BlockSize, Chunk, ChunkSize, Compression, Device, DeviceId, Error,
    FileData, Fragments, ImageBuilder, InodeLayout, Label, Metadata, Node, NodeId, Options,
    Timestamp, Uuid, XattrPrefixes,
};
use libfuzzer_sys::fuzz_target;

/// Bytes of all contents of an image together.
const CONTENTS: usize = 1 << 18;
/// Entries of an image.
const ENTRIES: usize = 512;
/// Blocks of a device.
const DEVICE_BLOCKS: u64 = 8;

type Builder = ImageBuilder<Cursor<Vec<u8>>>;

/// The input, from which whatever is needed is taken; zeros where it ends.
#[derive(Clone)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let given = self.bytes(8);
        bytes[..given.len()].copy_from_slice(given);
        u64::from_le_bytes(bytes)
    }

    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// What a node is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Device(FileType, (u32, u32)),
    Other(FileType),
}

impl Kind {
    fn file_type(&self) -> FileType {
        match self {
            Self::Directory => FileType::Directory,
            Self::File(_) => FileType::Regular,
            Self::Symlink(_) => FileType::Symlink,
            Self::Device(kind, _) | Self::Other(kind) => *kind,
        }
    }
}

struct Expected {
    id: NodeId,
    meta: Metadata,
    kind: Kind,
    names: u32,
}

/// An image being built, and what it is to hold.
struct Lab {
    builder: Builder,
    devices: Vec<DeviceId>,
    block_size: BlockSize,
    nodes: Vec<Expected>,
    /// By path, which names are there.
    names: BTreeMap<Vec<u8>, usize>,
    /// Contents that were stored, some of which no node has.
    stored: Vec<(FileData, Vec<u8>)>,
    room: usize,
}

fn options(input: &mut Input<'_>) -> Options {
    let block_size = BlockSize::new(512 << input.below(8)).expect("a power of two");
    let flags = input.byte();
    let compression = Algorithm::ALL.get(input.below(8)).map(|&algorithm| {
        let mut compression = Compression::new(algorithm);
        // The highest levels take memory and time for nothing that they do otherwise.
        compression.level = input.byte() % 5;
        compression.cluster_size = match input.below(8) {
            0..=3 => 0,
            n => block_size.bytes() << (n - 3),
        };
        compression
    });
    let more = input.byte();
    let label = input.bytes(usize::from(more & 7));
    let has = |bit: u8| flags & bit != 0;
    Options {
        block_size,
        uuid: match more >> 3 & 3 {
            0 => Uuid::Nil,
            1 => Uuid::Given([7; 16]),
            _ => Uuid::Derived,
        },
        label: Label::new(label).unwrap_or_default(),
        build_time: has(0x01).then_some(i64::from(more) << (more & 63)),
        inodes: match more >> 5 & 3 {
            0 => InodeLayout::Extended,
            1 => InodeLayout::Compact,
            _ => InodeLayout::Auto,
        },
        epoch: (more >> 7 != 0).then(|| timestamp(input)),
        xattr_prefixes: match has(0x02) {
            true => {
                XattrPrefixes::new(["user.long.", "trusted.overlay.", "user.l"]).expect("valid")
            }
            false => XattrPrefixes::default(),
        },
        addresses: match has(0x04) {
            true => Addresses::Bits48,
            false => Addresses::Bits32,
        },
        chunk_indexes: has(0x08),
        inline_tails: has(0x10),
        compression,
        full_indexes: has(0x20),
        tail_packing: has(0x40),
        fragments: match input.below(4) {
            0 => Fragments::Tails,
            1 => Fragments::Files,
            _ => Fragments::None,
        },
        dedupe_extents: has(0x80),
        threads: NonZeroUsize::new(1),
        ..Options::default()
    }
}

fn timestamp(input: &mut Input<'_>) -> Timestamp {
    let choice = input.byte();
    let secs = match choice & 3 {
        0 => 1_700_000_000,
        1 => i64::from(choice),
        2 => -i64::from(choice),
        _ => input.number().cast_signed(),
    };
    let nanos = match choice >> 2 & 3 {
        0 | 1 => 0,
        2 => 999_999_999,
        _ => input.number() as u32,
    };
    Timestamp { secs, nanos }
}

fn metadata(input: &mut Input<'_>) -> Metadata {
    let choice = input.byte();
    if choice & 3 == 0 {
        return Metadata::default();
    }
    let id = |input: &mut Input<'_>| match choice & 4 {
        0 => u32::from(input.byte()),
        _ => input.number() as u32,
    };
    let mode = u16::from_le_bytes([input.byte(), input.byte() & 0x1f]);
    let (uid, gid, mtime) = (id(input), id(input), timestamp(input));
    let mut xattrs = Vec::new();
    for _ in 0..choice >> 5 {
        let base: &[u8] = [
            &b"user."[..],
            b"user.long.",
            b"trusted.overlay.",
            b"security.",
            b"system.posix_acl_access",
            b"system.posix_acl_default",
            b"other.",
            b"user.same",
        ][input.below(8)];
        let shape = input.byte();
        let name = match shape & 3 {
            0 => base.to_vec(),
            1 => [base, b"a"].concat(),
            2 => [base, input.bytes(usize::from(shape >> 4))].concat(),
            _ => [base, &vec![b'n'; usize::from(shape)][..]].concat(),
        };
        let value = match shape >> 2 & 3 {
            0 => b"value".to_vec(),
            1 => input.bytes(usize::from(shape >> 4)).to_vec(),
            2 => [&[2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255][..]].concat(),
            _ => vec![shape; usize::from(shape) * 16],
        };
        xattrs.push((name, value));
    }
    Metadata {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    }
}

/// A name of a small choice, so that names meet; or any bytes.
fn name(input: &mut Input<'_>) -> Vec<u8> {
    let choice = input.byte();
    match choice & 7 {
        0..=3 => vec![b'a' + (choice >> 3)],
        4 => format!("a rather longer name {choice}").into_bytes(),
        5 => vec![b'n'; usize::from(choice) + 2],
        6 => input.bytes(usize::from(choice >> 3)).to_vec(),
        _ => [b".", &b".."[..], b"", b"a/b", b"\0", b"\xff", b"A", b"..."]
            [usize::from(choice >> 5)]
        .to_vec(),
    }
}

impl Lab {
    fn new(options: Options, dedupe: bool, devices: usize) -> Option<Self> {
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
                .add_device(Device { tag, blocks })
                .expect("no data yet")
        };
        let devices = (0..devices).map(|i| add(b'0' + i as u8)).collect();
        let root = Expected {
            id: builder.root(),
            meta: Metadata::default(),
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
            room: CONTENTS,
        })
    }

    /// The bytes of a device, which are all the same within a block and different between blocks.
    fn device_bytes(&self, device: usize) -> Vec<u8> {
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
                (Node::CharDevice { major, minor }, kind)
            }
            7 => {
                let kind = Kind::Device(FileType::BlockDevice, (major, minor));
                (Node::BlockDevice { major, minor }, kind)
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

    fn step(&mut self, input: &mut Input<'_>) {
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
                self.implied(&path);
                if let Ok(id) = added {
                    self.added(normal(&path), id, meta, kind);
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

    /// Takes in the directories that were made on the way to `path`.
    fn implied(&mut self, path: &[u8]) {
        let path = normal(path);
        for (i, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let parent = &path[..i];
            if !self.names.contains_key(parent)
                && let Some(id) = self.builder.lookup(parent)
            {
                self.added(parent.to_vec(), id, Metadata::default(), Kind::Directory);
            }
        }
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        _ => [path, b"/", name].concat(),
    }
}

/// A path as `add_path` takes it.
fn normal(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .collect();
    parts.join(&b'/')
}

/// Builds what the input says. The same with any number of threads.
fn build(bytes: &[u8], threads: usize) -> Option<(Lab, Options, Vec<u8>)> {
    let mut input = Input(bytes);
    let shape = input.byte();
    let options = Options {
        threads: NonZeroUsize::new(threads),
        ..options(&mut input)
    };
    let mut lab = Lab::new(options.clone(), shape & 1 != 0, usize::from(shape >> 1 & 3))?;
    for _ in 0..ENTRIES {
        if input.0.is_empty() {
            break;
        }
        lab.step(&mut input);
    }
    let empty = Builder::new(Cursor::new(Vec::new()), Options::default()).expect("defaults");
    let builder = std::mem::replace(&mut lab.builder, empty);
    let (out, summary) = builder.finish().expect("what was taken can be written");
    let image = out.into_inner();
    assert_eq!(image.len() as u64, summary.bytes);
    Some((lab, options, image))
}

fn compare(lab: &Lab, options: &Options, image: &Image<Vec<u8>>) {
    let report = image.check_with(&CheckOptions { contents: true });
    assert!(report.is_clean(), "{:?}", report.findings);
    let mut nids = vec![None; lab.nodes.len()];
    let mut names = 0;
    for found in image.walk() {
        let (path, inode) = found.expect("a clean image");
        let shown = path.escape_ascii();
        let node = *lab
            .names
            .get(&path)
            .unwrap_or_else(|| panic!("{shown}: not given"));
        names += 1;
        assert_eq!(
            *nids[node].get_or_insert(inode.nid()),
            inode.nid(),
            "{shown}"
        );
        let expected = &lab.nodes[node];
        same(expected, options, image, &inode, &shown.to_string());
    }
    assert_eq!(names, lab.names.len());
    let mut all: Vec<_> = nids.into_iter().flatten().collect();
    all.sort();
    assert!(
        all.windows(2).all(|pair| pair[0] != pair[1]),
        "inodes of their own"
    );
}

fn same(expected: &Expected, options: &Options, image: &Image<Vec<u8>>, inode: &Inode, path: &str) {
    let meta = &expected.meta;
    assert_eq!(inode.file_type(), expected.kind.file_type(), "{path}");
    assert_eq!(inode.mode(), meta.mode, "{path}");
    assert_eq!((inode.uid(), inode.gid()), (meta.uid, meta.gid), "{path}");
    if options.inodes != InodeLayout::Compact {
        assert_eq!(inode.mtime(), (meta.mtime.secs, meta.mtime.nanos), "{path}");
    }
    let mut xattrs = image.xattrs(inode).expect("a clean image");
    let mut wanted = meta.xattrs.clone();
    xattrs.sort();
    wanted.sort();
    assert_eq!(xattrs, wanted, "{path}");
    if expected.kind != Kind::Directory {
        assert_eq!(inode.nlink(), expected.names, "{path}");
    }
    match &expected.kind {
        Kind::File(contents) => {
            let mut read = Vec::new();
            let mut file = image.file(inode).expect("a clean image");
            file.read_to_end(&mut read).expect("a clean image");
            assert!(read == *contents, "{path}");
        }
        Kind::Symlink(target) => {
            assert_eq!(
                image.read_link(inode).expect("a clean image"),
                *target,
                "{path}"
            );
        }
        Kind::Device(_, number) => assert_eq!(inode.rdev(), *number, "{path}"),
        Kind::Directory | Kind::Other(_) => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((lab, options, image)) = build(bytes, 1) else {
        return;
    };
    if options.compression.is_some() && bytes.len() % 16 == 0 {
        let (_, _, again) = build(bytes, 3).expect("as before");
        assert!(again == image, "other bytes with more threads");
    }
    let devices: Vec<Vec<u8>> = (0..lab.devices.len())
        .map(|i| lab.device_bytes(i))
        .collect();
    let opened = Image::open_with_devices(image.clone(), devices.clone());
    compare(&lab, &options, &opened.expect("an image"));
    if !devices.is_empty() {
        let stitched = [&image[..], &devices.concat()].concat();
        compare(&lab, &options, &Image::open(stitched).expect("an image"));
    }
});
