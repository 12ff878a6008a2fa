use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::{Expected, Pipeline};
use crate::{Digest, Error};

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the layer as it is stored, usually compressed.
    pub digest: Digest,
    /// Its size as it is stored, in bytes.
    pub size: u64,
    /// Its media type by the manifest.
    pub media_type: String,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
}

/// The uncompressed tar of a layer, fetched, inflated and verified on threads of its own while it is read.
///
/// Everything is verified when the end is reached: instead of `Ok(0)`, a read there gives an error with an [`Error`] inside
/// ([`Error::of`]) where the size, the digest or the diff ID is not the one the image says. So whoever reads to the end
/// never takes wrong bytes for right ones; whoever stops at the end of the tar's last entry calls
/// [`finish`](Self::finish), or uses [`Image::read_layer`](crate::Image::read_layer), which does so itself.
///
/// Dropping it stops the download. A reader that is dropped before its end, so that nothing is verified, logs a warning, unless it
/// failed or [`abandon`](Self::abandon) was called.
#[derive(Debug)]
#[must_use = "a layer is verified at its end only: read it to the end, or call `finish`"]
pub struct LayerReader {
    pipeline: Pipeline,
    abandoned: bool,
}

impl LayerReader {
    pub(crate) fn new(pipeline: Pipeline) -> Self {
        let abandoned = false;
        Self {
            pipeline,
            abandoned,
        }
    }

    /// Passes over what was not read yet, and says whether everything was as it should be.
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Failed`] where a read failed before.
    pub fn finish(mut self) -> Result<(), Error> {
        self.pipeline.finish().map(drop)
    }

    /// Stops reading. Nothing that was read is verified.
    pub fn abandon(mut self) {
        self.abandoned = true;
    }

    /// A counter of the bytes fetched, to be read while the layer is.
    pub fn fetched(&self) -> Fetched {
        Fetched(self.pipeline.fetched())
    }

    /// The bytes fetched so far, as they are stored: of [`Layer::size`].
    pub fn bytes_fetched(&self) -> u64 {
        self.fetched().bytes()
    }
}

impl Drop for LayerReader {
    fn drop(&mut self) {
        if !self.abandoned
            && let Some(layer) = self.pipeline.unverified()
        {
            tracing::warn!(
                layer = layer.as_str(),
                "a layer was not read to its end, so its contents are not verified"
            );
        }
    }
}

/// How much of a layer has been fetched.
#[derive(Clone, Debug)]
pub struct Fetched(Arc<AtomicU64>);

impl Fetched {
    /// In bytes as they are stored.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Undoes the compression of `input`, if it has one: gzip (all members), zstd (all frames), xz, bzip2 or none, by its first bytes.
///
/// Reading, inflating and hashing run on threads of their own. The output may have at most `limit` bytes.
///
/// # Errors
///
/// [`Error::Thread`]. Reading gives [`Error::Read`], [`Error::Compression`] or [`Error::Bomb`] inside an [`io::Error`].
pub fn decompress_bounded(
    input: impl Read + Send + 'static,
    limit: u64,
) -> Result<Decompressed, Error> {
    let expected = Expected {
        blob: None,
        diff_id: None,
        compression: None,
        limit,
    };
    Pipeline::start(Box::new(input), expected, None).map(|pipeline| Decompressed { pipeline })
}

/// As [`decompress_bounded`], without a bound.
///
/// # Errors
///
/// As [`decompress_bounded`].
pub fn decompress(input: impl Read + Send + 'static) -> Result<Decompressed, Error> {
    decompress_bounded(input, u64::MAX)
}

/// The uncompressed bytes of a stream.
#[derive(Debug)]
#[must_use = "errors show when a stream is read: read it to the end, or call `finish`"]
pub struct Decompressed {
    pipeline: Pipeline,
}

impl Decompressed {
    /// Passes over what was not read yet, and gives the SHA-256 digest of all uncompressed bytes: a layer's diff ID.
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Failed`] where a read failed before.
    pub fn finish(mut self) -> Result<Digest, Error> {
        self.pipeline.finish()
    }
}

macro_rules! read_through_pipeline {
    ($($reader:ty),*) => {$(
        impl Read for $reader {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if buffer.is_empty() {
                    return Ok(0);
                }
                let bytes = self.pipeline.fill()?.read(buffer)?;
                self.pipeline.consume(bytes);
                Ok(bytes)
            }
        }

        impl BufRead for $reader {
            fn fill_buf(&mut self) -> io::Result<&[u8]> {
                Ok(self.pipeline.fill()?)
            }

            fn consume(&mut self, bytes: usize) {
                self.pipeline.consume(bytes);
            }
        }
    )*};
}

read_through_pipeline!(LayerReader, Decompressed);
