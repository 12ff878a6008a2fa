//! Indexes: metadata images over a tar that stays unchanged.

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::ops::Range;
use std::path::Path;

use erofs_writer::{BlockSize, DeviceSlot, FileData};
use fsmerge::{Content, DataId, Limits, ReadError, Sink};
use ocipull::Digest;

use super::contents::Contents;
use super::pieces::{self, InPieces, Piece};
use super::{BuildOptions, Output, Summary, finish};
use crate::error::{Error, Result};
use crate::stack;

/// The first bytes of compressed streams, and the compression's name.
const COMPRESSIONS: [(&[u8], &str); 4] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
];

/// Writes an image of the names and attributes of the layer whose tar is `tar` to `out`, which will
/// be at `path`. Files' contents stay in the archive, whose members are aligned to 512 bytes, as an
/// image's blocks are. Contents that cannot be addressed there (sparse files of some writers) are
/// copied. The image needs `tar`: as the only device of its device table, whose tag is the diff ID,
/// or appended to it. This is `mkfs.erofs --tar=i`.
///
/// If the diff ID is given, files' contents are not read, and a wrong diff ID is not detected.
/// Whatever the `options` are, blocks have 512 bytes and nothing is compressed. Returns the diff
/// ID, too.
///
/// # Errors
///
/// [`Error::CompressedTar`]; otherwise as [`write`](super::write).
pub fn write_index(
    tar: &Path,
    diff_id: Option<Digest>,
    out: &File,
    options: impl Into<BuildOptions>,
    path: &Path,
) -> Result<(String, Summary)> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let name = tar.display().to_string();
    let mut archive = File::open(tar).map_err(Error::io(tar))?;
    let bytes = archive.metadata().map_err(Error::io(tar))?.len();
    refuse_compressed(&mut archive, tar)?;

    let mut found = Found::default();
    let limits = Limits::default();
    let failed_to_read = |error| match error {
        ReadError::Sink { source, .. } => match source {},
        ReadError::Layer(source) => Error::layer(&name, source),
    };
    let (layer, stats, diff_id) = match diff_id {
        Some(diff_id) => {
            let stream = BufReader::new(&archive);
            let (layer, stats) =
                fsmerge::read_tar_seek(stream, &mut found, &limits).map_err(failed_to_read)?;
            (layer, stats, diff_id)
        }
        None => {
            let stream = archive.try_clone().map_err(Error::io(tar))?;
            let mut stream = ocipull::decompress(stream)?;
            let (layer, stats) =
                fsmerge::read_tar(&mut stream, &mut found, &limits).map_err(failed_to_read)?;
            (layer, stats, stream.finish()?)
        }
    };

    let mut options = options.into();
    options.image.block_size = BlockSize::B512;
    options.image.compression = None;
    options.image.per_file = None;
    let mut contents = Contents::new(out, &options).map_err(failed)?;
    let device = DeviceSlot::new(
        stack::tag(diff_id.hex()),
        bytes / u64::from(BlockSize::B512.bytes()),
    );
    let device = contents.image.add_device(device).map_err(failed)?;
    for (size, range) in &found.files {
        let pieces = &found.pieces[range.clone()];
        let image = &mut contents.image;
        let data = match pieces::address(image, device, *size, pieces, BlockSize::B512) {
            Ok(Some(data)) => data,
            Ok(None) => copied(&mut contents, &mut archive, *size, pieces, tar, path)?,
            Err(source) => return Err(failed(source)),
        };
        contents.files.push(data);
    }
    let summary = finish(contents, &layer, &options, &stats).map_err(failed)?;
    Ok((diff_id.to_string(), summary))
}

fn refuse_compressed(archive: &mut File, tar: &Path) -> Result<()> {
    let mut start = Vec::new();
    archive
        .by_ref()
        .take(8)
        .read_to_end(&mut start)
        .and_then(|_| archive.rewind())
        .map_err(Error::io(tar))?;
    match COMPRESSIONS
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
    {
        Some((_, compression)) => Err(Error::CompressedTar {
            path: tar.to_owned(),
            compression,
        }),
        None => Ok(()),
    }
}

/// Copies contents that an image cannot address into the image itself.
fn copied(
    contents: &mut Contents<Output<'_>>,
    archive: &mut File,
    size: u64,
    pieces: &[Piece],
    tar: &Path,
    path: &Path,
) -> Result<FileData> {
    let mut source = InPieces::new(archive, size, pieces);
    let stored = contents.store(&mut source);
    match source.failure {
        Some(failure) => Err(Error::io(tar)(failure)),
        None => stored.map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Records where contents are in the archive.
#[derive(Default)]
struct Found {
    /// Each file's length, and the range of its pieces.
    files: Vec<(u64, Range<usize>)>,
    pieces: Vec<Piece>,
}

impl Sink for Found {
    type Error = Infallible;

    fn file(&mut self, _path: &[u8], content: Content<'_>) -> Result<DataId, Infallible> {
        let first = self.pieces.len();
        let (mut logical, mut start) = (0, content.archive_offset().unwrap_or(0));
        for &(data, length) in content.ranges() {
            self.hole(logical, data);
            self.pieces.push(Piece {
                logical: data,
                length,
                start: Some(start),
            });
            start += length;
            logical = data + length;
        }
        self.hole(logical, content.size());
        self.files.push((content.size(), first..self.pieces.len()));
        Ok(DataId(self.files.len() as u64 - 1))
    }
}

impl Found {
    fn hole(&mut self, from: u64, to: u64) {
        if from < to {
            self.pieces.push(Piece {
                logical: from,
                length: to - from,
                start: None,
            });
        }
    }
}
