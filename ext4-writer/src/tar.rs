//! Filling a filesystem from a tar archive.

use std::io::{BufRead, Read, Seek, Write};

use fsmerge::{ContentStore, LayerTree, Limits, Merge, ReadError};

use crate::{Builder, Error, Options, Summary};

/// Writes a filesystem of what is in a tar archive to `out`, as [`Builder::new`],
/// [`Builder::add_tar_seek`] and [`Builder::finish`] do.
///
/// ```no_run
/// use std::fs::File;
/// use ext4_writer::Options;
///
/// let (tar, out) = (File::open("rootfs.tar")?, File::create("rootfs.ext4")?);
/// ext4_writer::from_tar(out, Options::new(1 << 30), tar)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Those of these methods.
pub fn from_tar<W: Write + Seek>(
    out: W,
    options: Options,
    tar: impl Read + Seek,
) -> Result<(W, Summary), Error> {
    let mut image = Builder::new(out, options)?;
    image.add_tar_seek(tar)?;
    image.finish()
}

impl<W: Write + Seek> Builder<W> {
    /// Adds all that is in a tar archive, read once from a stream, and gives the root the
    /// attributes that the archive has for it. The archive is read as a layer of a container image
    /// with nothing below it, so whiteouts are left out; the crate [`fsmerge`] documents which
    /// formats it reads. Directories without an entry have mode 0755.
    ///
    /// The last entry of a name counts, so the contents of files are in memory until all names are
    /// known. [`add_tar_seek`](Self::add_tar_seek) and [`add_tar_spooled`](Self::add_tar_spooled)
    /// hold none there.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use ext4_writer::{Builder, Options};
    ///
    /// # let tar = &[0; 1024][..];
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// image.add_tar(tar)?;
    /// image.finish()?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Archive`], mostly before anything is added; otherwise those of
    /// [`add_tree`](Self::add_tree).
    pub fn add_tar(&mut self, tar: impl BufRead) -> Result<(), Error> {
        let mut contents = ContentStore::in_memory();
        let read = contents.read_tar(tar, &Limits::default());
        let (layer, _) = read.map_err(read_error)?;
        self.add_layer(&layer, &mut contents)
    }

    /// Adds all that is in a tar archive, as [`add_tar`](Self::add_tar), and reads it twice: first
    /// the names, then the contents of the files that stay.
    ///
    /// ```no_run
    /// use ext4_writer::{Builder, Options};
    ///
    /// let mut image = Builder::create("rootfs.ext4", Options::new(1 << 30))?;
    /// image.add_tar_seek(std::fs::File::open("rootfs.tar")?)?;
    /// image.finish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`add_tar`](Self::add_tar).
    pub fn add_tar_seek(&mut self, tar: impl Read + Seek) -> Result<(), Error> {
        let mut contents = ContentStore::in_memory();
        let read = contents.read_archive(tar, &Limits::default());
        let (layer, _) = read.map_err(read_error)?;
        self.add_layer(&layer, &mut contents)
    }

    /// Adds all that is in a tar archive, as [`add_tar`](Self::add_tar), from a stream. The
    /// contents of its files wait in `spool`, an empty file that can be read and written, until all
    /// names are known.
    ///
    /// ```no_run
    /// use ext4_writer::{Builder, Options};
    ///
    /// let mut image = Builder::create("rootfs.ext4", Options::new(1 << 30))?;
    /// let spool = std::fs::File::options().read(true).write(true).create_new(true).open("spool")?;
    /// image.add_tar_spooled(std::io::stdin().lock(), spool)?;
    /// image.finish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`add_tar`](Self::add_tar); [`Error::Spool`].
    pub fn add_tar_spooled(
        &mut self,
        tar: impl BufRead,
        spool: std::fs::File,
    ) -> Result<(), Error> {
        let mut contents =
            ContentStore::in_file(spool).map_err(|source| Error::Spool { source })?;
        let read = contents.read_tar(tar, &Limits::default());
        let (layer, _) = read.map_err(read_error)?;
        self.add_layer(&layer, &mut contents)
    }

    fn add_layer(
        &mut self,
        layer: &LayerTree,
        contents: &mut ContentStore<'_>,
    ) -> Result<(), Error> {
        let mut merge = Merge::new(&Limits::default());
        merge.push(layer).map_err(archive_error)?;
        self.add_tree(&merge.finish(), contents)
    }
}

fn archive_error(source: fsmerge::Error) -> Error {
    Error::Archive {
        source: Box::new(source),
    }
}

fn read_error(error: ReadError<std::io::Error>) -> Error {
    match error {
        ReadError::Layer(source) => archive_error(source),
        ReadError::Sink { source, .. } => Error::Spool { source },
    }
}
