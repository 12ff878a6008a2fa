//! Compressed contents: encoding, and indexes.

mod algorithm;
mod codec;
mod compressed;
mod configurations;
mod contents;
mod cut;
mod dedupe;
#[cfg(feature = "deflate")]
mod deflate;
mod encode;
mod extent;
mod fingerprint;
#[cfg(feature = "zstd")]
mod fit;
mod index;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "lzma")]
mod lzma;
mod options;
mod pool;
mod record;
#[cfg(feature = "zstd")]
mod zstd;

pub use algorithm::Algorithm;
pub(crate) use compressed::{Compressed, Run, Tail};
pub(crate) use configurations::configurations;
pub(crate) use contents::{Contents, Place, Used};
pub(crate) use cut::{Cut, Cutter, Rest};
pub(crate) use extent::Extent;
pub(crate) use fingerprint::{Fingerprint, Hasher, Secret};
pub(crate) use index::{map_length, put_map};
pub use options::{Candidate, Compression, Fragments, PerFile};
pub(crate) use pool::{Batch, Cuts, End, Piece, Pool, Ticket};
