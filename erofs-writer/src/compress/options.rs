//! Options of compression.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::algorithm::Algorithm;
use crate::block_size::BlockSize;
use crate::error::Error;

/// `Z_EROFS_PCLUSTER_MAX_SIZE`.
const CLUSTER_MAX: u32 = 1 << 20;

/// How contents are compressed: see [`Options::compression`](crate::Options::compression).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compression {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// How much time is spent to save space, within the algorithm's [`levels`](Algorithm::levels);
    /// what is beyond them is the nearest of them.
    pub level: u8,
    /// The most bytes that are decoded together, on disk: a multiple of the block size, up to 1
    /// MiB. Larger ones take less space, and more time to read a part of. 0, as [`new`](Self::new)
    /// says, is one block.
    pub cluster_size: u32,
}

impl Compression {
    /// Compression with the algorithm's usual level, in clusters of one block.
    ///
    /// ```
    /// use erofs_writer::{Algorithm, BlockSize, Compression, Options};
    ///
    /// let compression = Compression::new(Algorithm::Zstd).level(9).cluster_size(64 << 10);
    /// let options = Options::default().block_size(BlockSize::B4096).compression(compression);
    /// # let _ = options;
    /// ```
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            level: algorithm.default_level(),
            cluster_size: 0,
        }
    }

    /// Sets [`level`](field@Self::level).
    #[must_use]
    pub fn level(mut self, level: u8) -> Self {
        self.level = level;
        self
    }

    /// Sets [`cluster_size`](field@Self::cluster_size).
    #[must_use]
    pub fn cluster_size(mut self, bytes: u32) -> Self {
        self.cluster_size = bytes;
        self
    }

    /// The cluster size in bytes.
    pub(crate) fn cluster(&self, block_size: BlockSize) -> u32 {
        match self.cluster_size {
            0 => block_size.bytes(),
            bytes => bytes,
        }
    }

    pub(crate) fn check(&self, block_size: BlockSize) -> Result<(), Error> {
        if !self.algorithm.is_available() {
            return Err(Error::AlgorithmNotBuilt(self.algorithm));
        }
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

impl FromStr for Algorithm {
    type Err = Error;

    /// The algorithm of a [name](Self::name).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownAlgorithm`] for any other.
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| Error::UnknownAlgorithm(name.to_owned()))
    }
}

/// What is packed into the image's fragments: a hidden file (`packed_nid`), compressed as a whole,
/// in which many files' contents lie one after the other, so that they share clusters. Linux 6.1
/// and later read fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fragments {
    /// Nothing.
    #[default]
    None,
    /// Of each compressed file the last part, where it would not fill a cluster.
    Tails,
    /// All of each compressed file. Smallest, and slow to read, because neighbouring bytes may
    /// belong to any file.
    Files,
}

/// A file whose compression is to be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// Its path, as given to [`Builder::data_for`](crate::Builder::data_for).
    pub path: &'a [u8],
    /// The length of its contents in bytes, where it is known beforehand.
    pub size: Option<u64>,
}

/// A callback that chooses the compression of each file: see
/// [`Options::per_file`](crate::Options::per_file).
#[derive(Clone)]
pub struct PerFile(Choose);

type Choose = Arc<dyn Fn(&Candidate<'_>) -> Option<Compression> + Send + Sync>;

impl PerFile {
    /// Takes the choice of `choose`: `None` stores the file as it is.
    ///
    /// The image depends on its results, so it should return the same for the same file.
    ///
    /// ```
    /// use erofs_writer::{Algorithm, Compression, Options, PerFile};
    ///
    /// let zstd = Compression::new(Algorithm::Zstd);
    /// let options = Options::default().per_file(PerFile::new(move |file| {
    ///     (!file.path.ends_with(b".jpg")).then_some(zstd)
    /// }));
    /// ```
    pub fn new(
        choose: impl Fn(&Candidate<'_>) -> Option<Compression> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(choose))
    }

    pub(crate) fn choose(&self, path: &[u8], size: Option<u64>) -> Option<Compression> {
        (self.0)(&Candidate { path, size })
    }
}

impl fmt::Debug for PerFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PerFile").finish_non_exhaustive()
    }
}

/// Two callbacks are equal if they are clones of one.
impl PartialEq for PerFile {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for PerFile {}
