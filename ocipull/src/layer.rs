use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::chunk::Unshared;
use crate::compression::LayerType;
use crate::kept::{Claim, KeptFile};
use crate::pipeline::{Expected, Pipeline, Useless};
use crate::unverified::Unverified;
use crate::{Digest, Error};

/// A layer of an image; [`Image::layers`](crate::Image::layers) returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// The digest of the layer as it is stored, usually compressed.
    pub digest: Digest,
    /// Its size as it is stored, in bytes.
    pub size: u64,
    /// Its media type in the manifest.
    pub media_type: String,
    /// The digest of the uncompressed tar or EROFS image.
    pub diff_id: Digest,
    /// The URLs that a non-distributable layer may be fetched from.
    pub urls: Vec<String>,
}

impl Layer {
    /// Whether the layer is an EROFS image, not a tar.
    pub fn is_erofs(&self) -> bool {
        matches!(LayerType::of(&self.media_type), LayerType::Erofs(_))
    }
}

/// The uncompressed tar of a layer, fetched, inflated and verified on threads of its own while it
/// is read.
///
/// The layer is verified when its end is reached. If the size, the digest or the diff ID differs
/// from what the image states, a read at the end returns an error instead of `Ok(0)`; [`Error::of`]
/// gets the [`Error`] out of it. A caller that stops earlier, for example at the tar's last entry,
/// calls [`finish`](Self::finish). [`Image::read_layer`](crate::Image::read_layer) calls it itself.
///
/// Dropping it stops the download. If it is dropped before its end, so that nothing is verified,
/// the [`Image`](crate::Image) returns [`Error::Unverified`] when the next layer is wanted, and
/// from [`Image::verified`](crate::Image::verified): unless the reader failed, or
/// [`abandon`](Self::abandon) was called.
#[derive(Debug)]
#[must_use = "a layer is verified at its end only: read it to the end, or call `finish`"]
pub struct LayerReader {
    pipeline: Pipeline,
    abandoned: bool,
    keep: Arc<AtomicBool>,
    claim: Option<Claim>,
    digest: Digest,
    unverified: Unverified,
}

impl LayerReader {
    pub(crate) fn new(
        pipeline: Pipeline,
        claim: Option<Claim>,
        (digest, unverified): (Digest, Unverified),
    ) -> Self {
        Self {
            pipeline,
            abandoned: false,
            keep: Arc::default(),
            claim,
            digest,
            unverified,
        }
    }

    /// Calls `read`, and then verifies the whole layer unless `read` fails.
    pub(crate) fn read_all<T, E: From<Error>>(
        mut self,
        read: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        match read(&mut self) {
            Ok(value) => {
                self.finish()?;
                Ok(value)
            }
            Err(error) => {
                // Kept bytes that cannot be used must not prevent a fresh download.
                if self.pipeline.unverified().is_some() && !self.keep.load(Ordering::Relaxed) {
                    self.pipeline.forget();
                }
                self.abandon();
                Err(error)
            }
        }
    }

    /// Reads the rest of the layer and verifies the whole.
    ///
    /// ```
    /// use std::io::Read;
    ///
    /// # fn size_of_first_entry(image: &ocipull::Image) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut layer = image.layer(0)?;
    /// let mut header = [0; 512];
    /// layer.read_exact(&mut header)?;
    /// // Only now the header is known to belong to the layer.
    /// layer.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Failed`] if a read failed before.
    pub fn finish(mut self) -> Result<(), Error> {
        self.pipeline.finish().map(drop)
    }

    /// Takes over the file in [`Options::partial_downloads`](crate::Options::partial_downloads) in
    /// which the bytes of the layer are kept as they are stored: of a layer that is not compressed,
    /// what is read. A caller that wants the layer in a file then writes nothing. The file has all
    /// bytes, verified, once the layer was read to its end.
    ///
    /// `None` if the layer has no such file: it is small, or from elsewhere than a registry, or
    /// another process downloads it as well.
    ///
    /// ```no_run
    /// # fn save(image: &ocipull::Image) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut layer = image.layer(0)?;
    /// if let Some(kept) = layer.keep_file() {
    ///     layer.finish()?;
    ///     kept.persist("layer.tar.gz".as_ref())?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn keep_file(&mut self) -> Option<KeptFile> {
        self.claim.take()?.take()
    }

    /// Stops reading. Nothing that was read is verified, as the caller knows.
    pub fn abandon(mut self) {
        self.abandoned = true;
    }

    /// Returns a counter of the bytes fetched, which other threads can watch while the layer is
    /// read.
    ///
    /// ```
    /// # fn show(image: &ocipull::Image) -> Result<(), ocipull::Error> {
    /// let layer = image.layer(0)?;
    /// let fetched = layer.fetched();
    /// let total = image.layers()[0].size;
    /// std::thread::spawn(move || println!("{} of {total} bytes", fetched.bytes()));
    /// layer.finish()
    /// # }
    /// ```
    pub fn fetched(&self) -> Fetched {
        Fetched {
            bytes: self.pipeline.fetched(),
            keep: self.keep.clone(),
        }
    }

    /// Returns the stored bytes fetched so far, at most [`Layer::size`].
    pub fn bytes_fetched(&self) -> u64 {
        self.fetched().bytes()
    }
}

impl Drop for LayerReader {
    fn drop(&mut self) {
        if self.pipeline.is_verified() {
            self.unverified.remove(&self.digest);
        } else if !self.abandoned && self.pipeline.unverified().is_some() {
            self.unverified.add(&self.digest);
        }
    }
}

/// A counter of the bytes of a layer that were fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    bytes: Arc<AtomicU64>,
    keep: Arc<AtomicBool>,
}

impl Fetched {
    /// Returns the number of stored bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Keeps the fetched bytes in [`Options::partial_downloads`](crate::Options::partial_downloads)
    /// even if the reading closure fails, for callers that stop for their own reasons. Otherwise
    /// the next download of the layer begins at its first byte.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }
}

/// Decompresses `input`. Its first bytes decide how: gzip (all members), zstd (all frames), xz,
/// bzip2, or not at all.
///
/// Reading, decompressing and hashing run on threads of their own. `limit` is the most bytes of
/// output.
///
/// ```no_run
/// use ocipull::decompress_bounded;
///
/// let layer = std::fs::File::open("layer.tar.zst")?;
/// let mut tar = decompress_bounded(layer, 10 << 30)?;
/// std::io::copy(&mut tar, &mut std::fs::File::create("layer.tar")?)?;
/// println!("diff ID {}", tar.finish()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::Thread`]. Reading returns [`Error::Read`], [`Error::Compression`] or [`Error::Bomb`]
/// inside an [`io::Error`].
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
    let pipeline = Pipeline::start(
        Box::new(Unshared(input)),
        expected,
        None,
        Useless::nothing(),
    )?;
    Ok(Decompressed { pipeline })
}

/// As [`decompress_bounded`], without a bound.
///
/// ```
/// use std::io::Read;
///
/// let mut bytes = Vec::new();
/// // Not compressed at all.
/// let mut stream = ocipull::decompress(&b"hello"[..])?;
/// stream.read_to_end(&mut bytes)?;
/// assert_eq!(bytes, b"hello");
/// assert_eq!(stream.finish()?, ocipull::Digest::sha256(b"hello"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// Reads the rest, and returns the SHA-256 digest of all uncompressed bytes: a layer's diff ID.
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Failed`] if a read failed before.
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
