//! Flat disks of images, for other virtual machine monitors: one file system with all files, in a
//! partition or not.
//!
//! The same image and options give the same bytes: the UUIDs of the disk and its partition are
//! derived from the file system's UUID, which is derived from its contents.

mod gpt;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blockbox_store::Meter;
use erofs_writer::{BlockSize, Compression, Uuid};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::image::Image;
use crate::layer::{BuildOptions, Output};
use crate::populate;
use crate::squash::{self, Layer};

/// The alignment of disks, in bytes.
const ALIGNMENT: u64 = 1 << 20;

/// The unit of an ext4 disk's size: a block of its file system, in bytes.
const BLOCK: u64 = 4096;

/// The offset of the UUID in an image, in bytes: `s_uuid` of ext4, and `uuid` of EROFS.
const EXT4_UUID: u64 = 1024 + 0x68;
const EROFS_UUID: u64 = 1024 + 0x30;

/// The free space of an ext4 file system of the default size, in bytes, besides twice its contents.
const ROOM: u64 = 256 << 20;

/// The file system of a disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FileSystem {
    /// A writable file system.
    Ext4 {
        /// The disk's size in bytes; `None` leaves as much space free as the image takes, and 256
        /// MiB.
        size: Option<u64>,
    },
    /// A read-only file system, no larger than its contents.
    Erofs {
        /// How files are compressed.
        compression: Option<Compression>,
    },
}

/// Options of a disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The file system.
    pub file_system: FileSystem,
    /// Whether the file system is in a partition of a GPT. Default: it is the whole disk.
    pub partitioned: bool,
    /// The file system's UUID, from which those of the disk and its partition are derived. Default:
    /// derived from the contents.
    pub uuid: Option<[u8; 16]>,
    /// Counts the bytes that are written.
    pub meter: Meter,
}

impl Options {
    /// Returns the options of a disk with this file system.
    pub fn new(file_system: FileSystem) -> Self {
        Self {
            file_system,
            partitioned: false,
            uuid: None,
            meter: Meter::default(),
        }
    }

    /// Sets [`partitioned`](Self::partitioned).
    #[must_use]
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.partitioned = partitioned;
        self
    }

    /// Sets [`uuid`](Self::uuid).
    #[must_use]
    pub fn uuid(mut self, uuid: Option<[u8; 16]>) -> Self {
        self.uuid = uuid;
        self
    }

    /// Sets [`meter`](Self::meter).
    #[must_use]
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }
}

/// A summary of a new disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Summary {
    /// The disk's length in bytes.
    pub bytes: u64,
    /// The file system's name in the kernel.
    pub file_system: &'static str,
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// The UUID of the partition, if there is one.
    pub partition: Option<[u8; 16]>,
}

/// Writes a disk with the tree that a container of `image` sees to the empty file `out`, which will
/// be at `path`.
///
/// # Errors
///
/// If the image cannot be read; if its tree does not fit in the size; [`Error::DiskSize`] if a disk
/// cannot have the size.
pub fn write(image: &Image, out: &File, options: &Options, path: &Path) -> Result<Summary> {
    let (start, end) = match options.partitioned {
        true => (gpt::START, gpt::END),
        false => (0, 0),
    };
    let layers = [Layer::image(&image.disk(), &[])?];
    let (file_system, bytes) = match &options.file_system {
        FileSystem::Ext4 { size } => {
            let size = match size {
                Some(size) => *size,
                None => chosen_size(image.bytes()?, start + end),
            };
            let length = size.checked_sub(start + end);
            let length = length.filter(|length| *length > 0 && size.is_multiple_of(BLOCK));
            let length = length.ok_or(Error::DiskSize { size, unit: BLOCK })?;
            out.set_len(size).map_err(Error::io(path))?;
            write_ext4(&layers, out, start, length, options, path)?;
            ("ext4", size)
        }
        FileSystem::Erofs { compression } => {
            // Blocks of 512 bytes need Linux 6.4, and larger blocks compress better.
            let uuid = options.uuid.map_or(Uuid::default(), Uuid::Given);
            let image = erofs_writer::Options::default()
                .block_size(BlockSize::B4096)
                .compression(*compression)
                .uuid(uuid);
            // The writer begins at the file's end.
            out.set_len(start).map_err(Error::io(path))?;
            let output = Output::starting_at(out, start).map_err(Error::io(path))?;
            let mut build = BuildOptions::from(image);
            build.meter = options.meter.clone();
            squash::write_to(&layers, output, &build, path)?;
            let length = out.metadata().map_err(Error::io(path))?.len();
            let bytes = match options.partitioned {
                true => length.next_multiple_of(ALIGNMENT) + end,
                false => length,
            };
            ("erofs", bytes)
        }
    };
    out.set_len(bytes).map_err(Error::io(path))?;
    let uuid = match options.file_system {
        FileSystem::Ext4 { .. } => uuid_at(out, start + EXT4_UUID),
        FileSystem::Erofs { .. } => uuid_at(out, start + EROFS_UUID),
    };
    let uuid = uuid.map_err(Error::io(path))?;
    let mut partition = None;
    if options.partitioned {
        let root = gpt::Partition {
            kind: root_type(image.config().architecture()),
            uuid: derived(&uuid, "partition"),
            length: bytes - start - end,
            read_only: matches!(options.file_system, FileSystem::Erofs { .. }),
        };
        gpt::write(out, bytes, derived(&uuid, "disk"), &root).map_err(Error::io(path))?;
        partition = Some(root.uuid);
    }
    Ok(Summary {
        bytes,
        file_system,
        uuid,
        partition,
    })
}

/// Returns the size of a disk for an image of `bytes` bytes with as much space free.
fn chosen_size(bytes: u64, table: u64) -> u64 {
    let size = bytes.saturating_mul(2).saturating_add(ROOM + table);
    size.checked_next_multiple_of(ALIGNMENT).unwrap_or(size)
}

/// Writes an ext4 file system of `length` bytes at offset `start`.
fn write_ext4(
    layers: &[Layer],
    out: &File,
    start: u64,
    length: u64,
    disk: &Options,
    path: &Path,
) -> Result<()> {
    let failed = |source| Error::Ext4 {
        path: path.to_owned(),
        source,
    };
    let options = ext4_writer::Options::new(length).uuid(disk.uuid);
    let output = Output::starting_at(out, start).map_err(Error::io(path))?;
    let output = output.metered(&disk.meter);
    let mut image = ext4_writer::Builder::new(output, options).map_err(failed)?;
    populate::from_layers(layers, &mut image, path)?;
    image.finish().map(drop).map_err(failed)
}

fn uuid_at(disk: &File, offset: u64) -> io::Result<[u8; 16]> {
    let mut uuid = [0; 16];
    disk.read_exact_at(&mut uuid, offset)?;
    Ok(uuid)
}

/// Derives the UUID of a part of a disk from the file system's UUID `from`: version 8 (RFC 9562).
fn derived(from: &[u8; 16], part: &str) -> [u8; 16] {
    let hash = Sha256::new()
        .chain_update(from)
        .chain_update(part)
        .finalize();
    let mut uuid = [0; 16];
    for (to, from) in uuid.iter_mut().zip(hash) {
        *to = from;
    }
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Returns the type of the root partition of a machine with this architecture, in Go's naming
/// ([Discoverable Partitions
/// Specification](https://uapi-group.org/specifications/specs/discoverable_partitions_specification/));
/// for unknown architectures, that of any Linux file system.
fn root_type(architecture: &str) -> [u8; 16] {
    let uuid: u128 = match architecture {
        "amd64" => 0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709,
        "386" => 0x44479540_f297_41b2_9af7_d131d5f0458a,
        "arm64" => 0xb921b045_1df0_41c3_af44_4c6f280d3fae,
        "arm" => 0x69dad710_2ce4_4e3c_b16c_21a1d49abed3,
        "loong64" => 0x77055800_792c_4f94_b39a_98c91b762bb6,
        "mips64le" => 0x700bda43_7a34_4507_b179_eeb93d7a7ca3,
        "mipsle" => 0x37c58c8a_d913_4156_a25f_48b1b64e07f0,
        "ppc64le" => 0xc31c45e6_3f39_412e_80fb_4809c4980599,
        "riscv64" => 0x72ec70a6_cf74_40e6_bd49_4bda08e8f224,
        "s390x" => 0x5eead9a9_fe09_4a1e_a1d7_520d00531306,
        _ => 0x0fc63daf_8483_4772_8e79_3d69d8477de4,
    };
    uuid.to_be_bytes()
}
