//! Layers that are pulled as EROFS images.
//!
//! Such an image may be malformed, by accident or on purpose. The guest's kernel reads only the
//! contents of files from it, because the merged metadata is ours; but we read its metadata, so the
//! whole image is checked first.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use blockbox_store::{Checksum, Meter};
use erofs_reader::{FileType, Severity, Source};
use ocipull::Digest;

use crate::error::{Error, Result};
use crate::layer::{self, BuildOptions, Output, Sent};
use crate::progress::{Progress, phase};
use crate::stack;

/// The sector size of a VMDK disk, in bytes.
const SECTOR: u64 = 512;

/// Limits for the contents of all files of an image, in bytes: what any image may have, the most
/// times its size, and the most. They equal ocipull's limits for what a layer decompresses to.
const ALWAYS: u64 = 1 << 30;
const RATIO: u64 = 2000;
const MOST: u64 = 128 << 30;

/// The file of a layer image before it is named.
#[derive(Clone, Copy)]
pub(crate) struct Staged<'a> {
    pub(crate) file: &'a File,
    /// The path by which the file can be opened until it is named.
    pub(crate) path: &'a Path,
    /// Whether reading the stream fills the file, so that nothing needs to be written.
    pub(crate) filled: bool,
}

/// Gets the layer image in `stream` into `staged`, in a form that merged metadata can address:
/// unchanged, or uncompressed if its contents are inline or compressed. A copy is made in `folder`.
/// The stream verifies the digest `diff_id` at its end: until then the returned checksum must not
/// be used.
pub(crate) fn take(
    stream: impl BufRead,
    (name, diff_id): (&str, &Digest),
    staged: Staged<'_>,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Checksum> {
    let Staged { file, path, filled } = staged;
    let (mut at, mut sent) = (0, Sent::default());
    let written = drain(stream, (path, name), |piece| {
        if !filled {
            file.write_all_at(piece, at)?;
        }
        at += piece.len() as u64;
        sent.advance(file, at);
        Ok(())
    })?;
    let padding = written.next_multiple_of(SECTOR) - written;
    io(
        path,
        file.write_all_at(&[0; SECTOR as usize][..padding as usize], written),
    )?;
    // The rest goes to the disk while the image is checked.
    sent.finish(file);
    let read = phase(progress, format!("checking layer {name}"), None, |_| {
        checked(path, name)?;
        Ok::<_, Error>(stack::layer(&stack::Input {
            path: path.to_owned(),
            tag: name.to_owned(),
        }))
    })?;
    match read {
        // The stream verifies the digest of the same bytes.
        Ok(_) if padding == 0 && diff_id.algorithm() == "sha256" => {
            Ok(Checksum::of_whole(written, diff_id.hex()))
        }
        Ok(_) => io(path, File::open(path).and_then(Checksum::of)),
        Err(Error::NotAddressable { .. }) => {
            let what = format!("rewriting layer {name}");
            phase(progress, what, None, |meter| {
                rebuilt(name, (file, path), folder, meter)
            })
        }
        Err(error) => Err(refused(name, error)),
    }
}

/// Rejects an image whose files would be copied from small extents without bound: compressed ones,
/// or extents that many files share.
pub(super) fn bounded(path: &Path, name: &str) -> Result<()> {
    let stored = io(path, std::fs::metadata(path))?.len();
    bounded_by(path, name, stored.saturating_mul(RATIO).clamp(ALWAYS, MOST))
}

fn bounded_by(path: &Path, name: &str, limit: u64) -> Result<()> {
    let image = layer::open(path).map_err(|error| refused(name, error))?;
    let failed = |source| {
        let path = path.to_owned();
        refused(name, Error::Read { path, source })
    };
    let mut seen = HashSet::new();
    let mut bytes = 0_u64;
    for found in image.walk() {
        let (_, inode) = found.map_err(failed)?;
        if inode.file_type() != FileType::Regular || !seen.insert(inode.nid()) {
            continue;
        }
        let extents = image.extents(&inode).map_err(failed)?;
        let data = extents
            .iter()
            .filter(|extent| extent.source != Source::Hole)
            .fold(0_u64, |sum, extent| sum.saturating_add(extent.length));
        bytes = bytes.saturating_add(data);
        if bytes > limit {
            return Err(Error::HostileLayer {
                layer: name.to_owned(),
                problem: format!("its files have more than {limit} bytes together"),
            });
        }
    }
    Ok(())
}

/// Writes the image again in its place, uncompressed and without inline contents.
fn rebuilt(
    name: &str,
    (out, staged): (&File, &Path),
    folder: &Path,
    meter: &Meter,
) -> Result<Checksum> {
    bounded(staged, name)?;
    let mut aside = io(folder, tempfile::tempfile_in(folder))?;
    let image = layer::open(staged)?;
    let options = BuildOptions {
        meter: meter.clone(),
        ..BuildOptions::default()
    };
    crate::rebuild::write(&image, staged, &aside, options, staged)
        .map_err(|error| refused(name, error))?;
    drop(image);
    io(staged, out.set_len(0))?;
    let mut output = Output::hashed(out);
    io(staged, output.seek(SeekFrom::Start(0)))?;
    io(folder, aside.rewind())?;
    io(staged, io::copy(&mut aside, &mut output))?;
    io(staged, output.flush())?;
    io(staged, output.checksum())
}

/// Writes a layer image to `path`.
pub(super) fn copy(stream: impl BufRead, path: &Path, name: &str) -> Result<()> {
    let mut file = io(path, File::create(path))?;
    drain(stream, (path, name), |piece| file.write_all(piece)).map(drop)
}

/// Writes all of a layer's stream, and returns the number of bytes. `io::copy` would split
/// the stream's buffers into small pieces.
fn drain(
    mut stream: impl BufRead,
    (path, name): (&Path, &str),
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<u64> {
    let mut bytes = 0;
    loop {
        let piece = match stream.fill_buf() {
            Ok([]) => return Ok(bytes),
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                let layer = name.to_owned();
                return Err(Error::LayerStream { layer, source });
            }
        };
        io(path, write(piece))?;
        let len = piece.len();
        bytes += len as u64;
        stream.consume(len);
    }
}

/// Rejects the layer image at `path`, called `name`, if it is damaged or its contents are
/// elsewhere.
pub(super) fn checked(path: &Path, name: &str) -> Result<()> {
    let image = layer::open(path).map_err(|error| refused(name, error))?;
    if !image.superblock().devices.is_empty() {
        return Err(refused(
            name,
            Error::Detached {
                path: path.to_owned(),
            },
        ));
    }
    let report = image.check();
    match report
        .findings
        .iter()
        .find(|f| f.severity == Severity::Error)
    {
        None => Ok(()),
        Some(finding) => Err(Error::HostileLayer {
            layer: name.to_owned(),
            problem: finding.to_string(),
        }),
    }
}

/// Replaces the name of the temporary file with the layer's name.
fn refused(name: &str, error: Error) -> Error {
    let problem = match error {
        Error::Read { source, .. } => source.to_string(),
        Error::NotALayer { name, problem, .. } => format!("{name}: {problem}"),
        Error::Detached { .. } => "its contents are on other devices".to_owned(),
        Error::Layer { source, .. } => source.to_string(),
        other => return other,
    };
    Error::HostileLayer {
        layer: name.to_owned(),
        problem,
    }
}

fn io<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use erofs_writer::{BlockSize, Builder, Compression, Metadata, Node, Options};

    fn image(options: Options) -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        let mut builder = Builder::new(&mut bytes, options).unwrap();
        let text = testkit::text(1, 20_000);
        let data = builder.store(&text[..]).unwrap();
        builder
            .add(builder.root(), b"f", Metadata::new(0o644), Node::File(data))
            .unwrap();
        builder.finish().unwrap();
        bytes.into_inner()
    }

    /// Takes an image whose bytes are written, and the same one in a file that is already filled.
    fn taken(bytes: &[u8]) -> Result<Vec<u8>> {
        let filled = taken_into(bytes, true);
        let written = taken_into(bytes, false);
        assert!(filled.is_ok() == written.is_ok());
        if let (Ok(filled), Ok(written)) = (filled, &written) {
            assert!(filled == *written);
        }
        written
    }

    fn taken_into(bytes: &[u8], filled: bool) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer");
        fs::write(&path, if filled { bytes } else { b"" }).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let name = ("sha256:x", &Digest::sha256(bytes));
        let staged = Staged {
            file: &file,
            path: &path,
            filled,
        };
        let checksum = take(bytes, name, staged, dir.path(), &())?;
        assert!(checksum.is_of(File::open(&path).unwrap()).unwrap());
        Ok(fs::read(&path).unwrap())
    }

    #[test]
    fn an_image_with_addressable_contents_is_kept_unchanged() {
        let plain = Options::default().block_size(BlockSize::B4096);
        let bytes = image(plain);
        assert!(taken(&bytes).unwrap() == bytes);
    }

    #[test]
    fn an_image_with_compressed_or_inline_contents_is_rebuilt() {
        let lz4 = Compression::new("lz4".parse().unwrap());
        let plain = Options::default().block_size(BlockSize::B4096);
        for options in [plain.clone().compression(lz4), plain.inline_tails(true)] {
            let bytes = taken(&image(options)).unwrap();
            let read = erofs_reader::Image::open(&bytes[..]).unwrap();
            assert!(read.read("f").unwrap() == testkit::text(1, 20_000));
        }
    }

    #[test]
    fn an_image_whose_files_have_too_many_bytes_is_refused_before_they_are_copied() {
        let mut bytes = io::Cursor::new(Vec::new());
        let lz4 = Compression::new("lz4".parse().unwrap());
        let options = Options::default()
            .block_size(BlockSize::B4096)
            .compression(lz4);
        let mut builder = Builder::new(&mut bytes, options).unwrap();
        // The contents of one file, shared by three inodes, each with two names.
        let data = builder.store(&testkit::text(1, 20_000)[..]).unwrap();
        for name in ["a", "b", "c"] {
            let metadata = Metadata::new(0o644);
            let file = builder.add(builder.root(), name.as_bytes(), metadata, Node::File(data));
            builder
                .link_path(format!("{name}2").as_bytes(), file.unwrap())
                .unwrap();
        }
        builder.finish().unwrap();
        let image = tempfile::NamedTempFile::new().unwrap();
        fs::write(image.path(), bytes.into_inner()).unwrap();
        bounded_by(image.path(), "x", 60_000).unwrap();
        let refused = bounded_by(image.path(), "x", 59_999);
        assert!(matches!(refused, Err(Error::HostileLayer { .. })));
        bounded(image.path(), "x").unwrap();
    }

    #[test]
    fn the_error_for_a_damaged_image_names_its_layer() {
        let good = image(Options::default());
        for at in (1024..good.len()).step_by(97) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x41;
            if let Err(error) = taken(&bytes) {
                assert!(error.to_string().contains("sha256:x"), "{error}");
            }
        }
        assert!(matches!(taken(b"short"), Err(Error::HostileLayer { .. })));
    }
}
