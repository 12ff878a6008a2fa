//! Compressed contents: cut into extents, each of which is encoded into a physical cluster of a given size at most.

mod index;
mod lz4;

pub(crate) use index::{map_length, put_map};

use crate::{BlockSize, Error};

/// `Z_EROFS_PCLUSTER_MAX_SIZE`.
const CLUSTER_MAX: u32 = 1 << 20;
/// Bytes of contents from which one cluster is filled. Distances between clusters have 11 bits of blocks.
fn window(block_size: BlockSize, cluster: usize) -> usize {
    let distances = 1024 * block_size.bytes() as usize;
    (4 * cluster).max(1 << 20).min(distances.max(2 * cluster))
}

/// How contents are compressed: see [`Options::compression`](crate::Options::compression).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compression {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// How much time is spent to save space, from 0; what is beyond the algorithm's range is its limit.
    pub level: u8,
    /// The most bytes that are decoded together, on disk: a multiple of the block size, up to 1 MiB. Larger ones take less
    /// space, and more time to read a part of. 0, as [`new`](Self::new) says, is one block.
    pub cluster_size: u32,
}

impl Compression {
    /// Compression with the algorithm's usual level, in clusters of one block.
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            level: algorithm.default_level(),
            cluster_size: 0,
        }
    }

    /// The cluster size in bytes.
    pub(crate) fn cluster(&self, block_size: BlockSize) -> u32 {
        match self.cluster_size {
            0 => block_size.bytes(),
            bytes => bytes,
        }
    }

    pub(crate) fn check(&self, block_size: BlockSize) -> Result<(), Error> {
        let cluster = self.cluster(block_size);
        let blocks = cluster / block_size.bytes();
        // Numbers of blocks have 11 bits.
        if cluster.is_multiple_of(block_size.bytes())
            && cluster <= CLUSTER_MAX
            && (1..2048).contains(&blocks)
        {
            Ok(())
        } else {
            Err(Error::ClusterSize(cluster))
        }
    }

    /// Whether clusters have several blocks, so that each says how many.
    pub(crate) fn is_big(&self, block_size: BlockSize) -> bool {
        self.cluster(block_size) > block_size.bytes()
    }
}

/// An algorithm that kernels read (`Z_EROFS_COMPRESSION_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// LZ4 blocks; levels to 12. Linux 5.4, and 5.13 for clusters of several blocks.
    Lz4,
}

impl Algorithm {
    fn default_level(self) -> u8 {
        match self {
            Self::Lz4 => 0,
        }
    }

    /// `h_algorithmtype`, and the bit of `available_compr_algs`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Lz4 => 0,
        }
    }
}

/// A cluster's bytes, and how much of the input they hold.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) consumed: usize,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
enum Encoder {
    Lz4(lz4::Encoder),
}

impl Encoder {
    fn new(compression: &Compression) -> Self {
        match compression.algorithm {
            Algorithm::Lz4 => Self::Lz4(lz4::Encoder::new(compression.level)),
        }
    }

    fn pack(&mut self, input: &[u8], capacity: usize) -> Packed {
        match *self {
            Self::Lz4(ref mut encoder) => encoder.pack(input, capacity),
        }
    }
}

/// Contents between two borders, and the blocks that hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of contents.
    pub(crate) length: u32,
    pub(crate) blocks: u16,
    /// Not compressed: then they are one block.
    pub(crate) plain: bool,
}

/// Compressed contents that are in the image.
#[derive(Clone, Debug)]
pub(crate) struct Compressed {
    /// The first block of the first extent. The others follow.
    pub(crate) block: u64,
    pub(crate) size: u64,
    pub(crate) extents: Box<[Extent]>,
}

/// Compresses contents as they come.
#[derive(Debug)]
pub(crate) struct Compressor {
    encoder: Encoder,
    block: usize,
    cluster: usize,
    window: usize,
    pending: Vec<u8>,
    /// What of `pending` is done with.
    done: usize,
    pub(crate) extents: Vec<Extent>,
}

impl Compressor {
    pub(crate) fn new(compression: &Compression, block_size: BlockSize) -> Self {
        let cluster = compression.cluster(block_size) as usize;
        Self {
            encoder: Encoder::new(compression),
            block: block_size.bytes() as usize,
            cluster,
            window: window(block_size, cluster),
            pending: Vec::new(),
            done: 0,
            extents: Vec::new(),
        }
    }

    /// Takes a part of `bytes`; tells how much. Where it takes nothing, the [`next`](Self::next) extent is due.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        if self.done >= self.window {
            self.pending.drain(..self.done);
            self.done = 0;
        }
        let room = self.window - (self.pending.len() - self.done).min(self.window);
        let taken = room.min(bytes.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// What is not in an extent yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.pending[self.done..]
    }

    /// The blocks of what comes next; `None` where there is nothing.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let input = &self.pending[self.done..];
        if input.is_empty() {
            return None;
        }
        if input.len() > self.block {
            let packed = self.encoder.pack(input, self.cluster);
            let length = packed.bytes.len().next_multiple_of(self.block);
            // Decoders skip zeros before the data.
            if packed.consumed > length && packed.bytes.first() != Some(&0) {
                let mut blocks = vec![0; length - packed.bytes.len()];
                blocks.extend_from_slice(&packed.bytes);
                self.done += packed.consumed;
                self.extents.push(Extent {
                    length: packed.consumed as u32,
                    blocks: (length / self.block) as u16,
                    plain: false,
                });
                return Some(blocks);
            }
        }
        let input = &input[..input.len().min(self.cluster)];
        let mut blocks = input.to_vec();
        blocks.resize(input.len().next_multiple_of(self.block), 0);
        self.extents
            .extend(input.chunks(self.block).map(|part| Extent {
                length: part.len() as u32,
                blocks: 1,
                plain: true,
            }));
        self.done += input.len();
        Some(blocks)
    }
}
