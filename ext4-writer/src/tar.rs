//! Filling a filesystem from a tar archive.

use std::convert::Infallible;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use fsmerge::{Content, DataId, Limits, Merge, ReadError, Sink};

use crate::tree::{Contents, Stored};
use crate::{Builder, Error, Options, Summary};

/// Writes a filesystem of what is in a tar archive to `out`, as [`Builder::new`], [`Builder::add_tar`] and [`Builder::finish`] do.
///
/// # Errors
///
/// Theirs.
pub fn from_tar<W: Write + Seek>(
    out: W,
    options: Options,
    tar: impl Read + Seek,
) -> Result<(W, Summary), Error> {
    let mut image = Builder::new(out, options)?;
    image.add_tar(tar)?;
    image.finish()
}

impl<W: Write + Seek> Builder<W> {
    /// Adds all that is in a tar archive (not compressed), and gives the root the attributes that the archive has for it. The
    /// archive is read as a layer of a container image with nothing below it, so whiteouts are left out; the crate
    /// [`fsmerge`] says which formats and what of them it understands.
    ///
    /// The last entry of a name is the one that counts, so the archive is read twice. Directories without an entry have mode 0755.
    ///
    /// # Errors
    ///
    /// [`Error::Archive`], mostly before anything is added; else those of [`add_tree`](Self::add_tree).
    pub fn add_tar(&mut self, mut tar: impl Read + Seek) -> Result<(), Error> {
        tar.rewind().map_err(|source| unreadable(0, source))?;
        let mut files = Files::default();
        let read = fsmerge::read_tar(BufReader::new(&mut tar), &mut files, &Limits::default());
        let (layer, _) = read.map_err(|error| match error {
            ReadError::Layer(source) => archive(source),
            ReadError::Sink { source, .. } => match source {},
        })?;
        let mut merge = Merge::new(&Limits::default());
        merge.push(&layer).map_err(archive)?;
        self.add_tree(&merge.finish(), &mut InArchive { tar, files })
    }
}

fn archive(source: fsmerge::Error) -> Error {
    Error::Archive {
        source: Box::new(source),
    }
}

fn unreadable(offset: u64, source: std::io::Error) -> Error {
    archive(fsmerge::Error::Io { offset, source })
}

/// Where files' contents are in an archive, by their ids.
#[derive(Debug, Default)]
struct Files(Vec<(u64, Vec<Range<u64>>)>);

impl Sink for Files {
    type Error = Infallible;

    fn file(&mut self, _path: &[u8], content: Content<'_>) -> Result<DataId, Infallible> {
        let ranges = content.ranges().iter();
        let ranges = ranges.map(|&(start, length)| start..start + length);
        self.0
            .push((content.archive_offset().unwrap_or(0), ranges.collect()));
        Ok(DataId(self.0.len() as u64 - 1))
    }
}

/// An archive from which contents are read.
struct InArchive<R> {
    tar: R,
    files: Files,
}

impl<R: Read + Seek> Contents for InArchive<R> {
    type Error = Error;

    fn open(&mut self, data: DataId) -> Result<Stored<'_>, Error> {
        let (offset, ranges) = &self.files.0[data.0 as usize];
        self.tar
            .seek(SeekFrom::Start(*offset))
            .map_err(|source| unreadable(*offset, source))?;
        let stored = ranges.iter().map(|range| range.end - range.start).sum();
        Ok(Stored {
            ranges: ranges.clone(),
            data: Box::new((&mut self.tar).take(stored)),
        })
    }
}
