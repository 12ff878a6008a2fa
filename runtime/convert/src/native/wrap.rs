//! Wraps an EROFS image in the blob that is pushed: unchanged, or in zstd frames.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use blockbox_store::Meter;
use ocipull::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::chunks::{self, CHUNK, ChunkIndex};
use super::image_spec;
use super::options::{Format, NativeOptions, Wrap};
use crate::error::{Error, Result};
use crate::parallel;

/// The annotation with the digest of the contents of the zstd frames.
pub(super) const UNCOMPRESSED: &str = "org.erofs.uncompressed-digest";

/// A layer's blob.
#[derive(Debug)]
pub(super) struct Blob {
    /// The EROFS image.
    pub(super) image: PathBuf,
    /// The file to push: the image itself, or the image in zstd frames.
    path: PathBuf,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) diff_id: Digest,
    media_type: String,
    annotations: Vec<(&'static str, String)>,
}

impl Blob {
    /// Wraps the image at `image`, which has this media type.
    pub(super) fn of(
        image: &Path,
        media_type: &str,
        options: &NativeOptions,
        meter: &Meter,
    ) -> Result<Self> {
        match options.wrap {
            Wrap::None => {
                let file = File::open(image).map_err(Error::io(image))?;
                let (digest, size) = hash(meter.measure(file)).map_err(Error::io(image))?;
                Ok(Self {
                    image: image.to_owned(),
                    path: image.to_owned(),
                    diff_id: digest.clone(),
                    digest,
                    size,
                    media_type: media_type.to_owned(),
                    annotations: Vec::new(),
                })
            }
            Wrap::Zstd { level, index } => {
                let path = image.with_extension("zst");
                let index = index.then_some(options.format);
                let framed = frames((image, media_type), &path, level, index, meter);
                framed.map_err(Error::io(&path))
            }
        }
    }

    pub(super) fn open(&self, offset: u64) -> io::Result<Box<dyn Read>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }

    pub(super) fn descriptor(&self) -> Value {
        let mut descriptor = json!({
            "mediaType": self.media_type, "digest": self.digest.as_str(), "size": self.size,
        });
        for (name, value) in &self.annotations {
            descriptor["annotations"][name] = json!(value);
        }
        descriptor
    }
}

/// Wraps the images at `images`. `meter` counts their bytes.
pub(super) fn blobs(
    images: &[PathBuf],
    options: &NativeOptions,
    meter: &Meter,
) -> Result<Vec<Blob>> {
    let jobs = match options.wrap {
        Wrap::None => options.jobs,
        // zstd compression has threads of its own.
        Wrap::Zstd { .. } => NonZeroUsize::MIN,
    };
    let media_type = match (options.format, options.wrap) {
        (Format::ImageSpec, _) => image_spec::MEDIA_TYPE,
        (Format::Layer, Wrap::None) => options.media_type.as_str(),
        (Format::Layer, Wrap::Zstd { .. }) => ocipull::EROFS_LAYER,
    };
    parallel::each(images.len(), jobs, |number, _| {
        Blob::of(&images[number], media_type, options, meter)
    })
}

/// Computes the digest of bytes as they are written.
struct Hashed<W> {
    inner: W,
    sha256: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sha256.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hash(from: impl Read) -> io::Result<(Digest, u64)> {
    let mut out = hashed(io::sink());
    // Without this buffer, the copy would be in small pieces.
    io::copy(&mut BufReader::with_capacity(256 << 10, from), &mut out)?;
    Ok((digest(out.sha256)?, out.bytes))
}

fn hashed<W>(inner: W) -> Hashed<W> {
    Hashed {
        inner,
        sha256: Sha256::new(),
        bytes: 0,
    }
}

fn digest(sha256: Sha256) -> io::Result<Digest> {
    let hex: String = sha256
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}").parse().map_err(io::Error::other)
}

/// Writes the image to `path`, each chunk as a frame, and an index of them in the format `index`.
/// Several frames are compressed in parallel.
fn frames(
    (from, media_type): (&Path, &str),
    path: &Path,
    level: i32,
    index: Option<Format>,
    meter: &Meter,
) -> io::Result<Blob> {
    let image = File::open(from)?;
    let size = image.metadata()?.len();
    let mut image = meter.measure(image);
    let mut whole = Sha256::new();
    let mut chunk_index = ChunkIndex::new(size);
    let mut out = hashed(BufWriter::new(File::create(path)?));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    loop {
        let mut pieces = Vec::with_capacity(threads);
        for _ in 0..threads {
            let mut piece = Vec::new();
            if (&mut image).take(CHUNK as u64).read_to_end(&mut piece)? == 0 {
                break;
            }
            pieces.push(piece);
        }
        if pieces.is_empty() {
            break;
        }
        let frames: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = pieces
                .iter()
                .map(|piece| scope.spawn(move || zstd::bulk::compress(piece, level)))
                .collect();
            pieces.iter().for_each(|piece| whole.update(piece));
            let ended = |_| Err(io::Error::other("a thread ended unexpectedly"));
            running
                .into_iter()
                .map(|frame| frame.join().unwrap_or_else(ended))
                .collect()
        });
        for frame in frames {
            let frame = frame?;
            chunk_index.push(out.bytes, &frame);
            out.write_all(&frame)?;
        }
    }
    let diff_id = digest(whole)?;
    let mut annotations = vec![(UNCOMPRESSED, diff_id.to_string())];
    if let Some(format) = index {
        let (payload, [range, digest, kind], index_type) = match format {
            Format::Layer => (
                chunk_index.to_bytes(),
                [chunks::RANGE, chunks::DIGEST, chunks::MEDIA_TYPE],
                chunks::INDEX_TYPE,
            ),
            Format::ImageSpec => (
                image_spec::index(&chunk_index),
                [
                    image_spec::RANGE,
                    image_spec::DIGEST,
                    image_spec::INDEX_MEDIA_TYPE,
                ],
                image_spec::INDEX_TYPE,
            ),
        };
        let begin = out.bytes;
        out.write_all(&chunks::skippable(&payload))?;
        annotations.extend([
            (range, format!("{begin}:{}", out.bytes)),
            (digest, Digest::sha256(&payload).to_string()),
            (kind, index_type.to_owned()),
        ]);
    }
    out.flush()?;
    Ok(Blob {
        image: from.to_owned(),
        path: path.to_owned(),
        digest: digest(out.sha256)?,
        size: out.bytes,
        diff_id,
        media_type: format!("{media_type}+zstd"),
        annotations,
    })
}

/// The SHA-256 of a file. `meter` counts its bytes.
pub(super) fn digest_of(path: &Path, meter: &Meter) -> Result<Digest> {
    let file = File::open(path).map_err(Error::io(path))?;
    Ok(hash(meter.measure(file)).map_err(Error::io(path))?.0)
}
