//! The sources of a disk's bytes, opened by the names in its descriptor.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::read_at::{into_io, read_exact_at};
use crate::{Error, NameProblem, ReadAt, ReadAtError, SparseProblem, name};

/// How [`Disk::open_with`](crate::Disk::open_with) follows the names in a descriptor.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The folder that every extent's file must lie in, after `..` and symlinks are resolved.
    /// `None`: the descriptor's own folder, and no `..` at all.
    pub root: Option<PathBuf>,
}

impl OpenOptions {
    /// Sets [`root`](Self::root).
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }
}

/// A source, its size when it was opened, and what errors call it.
#[derive(Clone)]
pub(crate) struct Opened {
    /// `None` for a source that the caller opened, whose name it knows.
    label: Option<Arc<Path>>,
    source: Arc<dyn ReadAt + Send + Sync>,
    size: u64,
    /// Whether the caller opened this source itself. Errors then need not name it.
    own: bool,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("label", &self.label)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Opened {
    pub(crate) fn new(
        label: Option<&Path>,
        source: Arc<dyn ReadAt + Send + Sync>,
    ) -> Result<Self, Error> {
        let size = source.size().map_err(|error| failed(label, error))?;
        Ok(Self {
            label: label.map(Arc::from),
            source,
            size,
            own: label.is_none(),
        })
    }

    /// Opens the regular file at `path`, which the caller named.
    pub(crate) fn own(path: &Path) -> Result<Self, Error> {
        let own = true;
        Ok(Self {
            own,
            ..open_file(path)?
        })
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// What errors call the source.
    pub(crate) fn path(&self) -> PathBuf {
        path(self.label.as_deref())
    }

    /// Fills `buf` with the bytes at `offset`.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        read_exact_at(&*self.source, buf, offset).map_err(|source| Error::Io {
            path: self.path(),
            source,
        })
    }

    pub(crate) fn damaged(&self, sector: u64, problem: SparseProblem) -> Error {
        Error::Sparse {
            file: (!self.own).then(|| self.path()),
            sector,
            problem,
        }
    }
}

fn path(label: Option<&Path>) -> PathBuf {
    label.map_or_else(|| PathBuf::from("the disk"), Path::to_owned)
}

fn failed(label: Option<&Path>, error: ReadAtError) -> Error {
    Error::Io {
        path: path(label),
        source: into_io(error),
    }
}

/// Opens the sources that a descriptor names.
pub(crate) trait Open {
    fn open(&mut self, name: &str) -> Result<Opened, Error>;
}

/// The files of a folder, each opened once however many extents lie in it.
pub(crate) struct Folder<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) root: Option<&'a Path>,
    open: HashMap<PathBuf, Opened>,
}

impl<'a> Folder<'a> {
    pub(crate) fn new(folder: &'a Path, root: Option<&'a Path>) -> Self {
        Self {
            folder,
            root,
            open: HashMap::new(),
        }
    }
}

impl Open for Folder<'_> {
    fn open(&mut self, name: &str) -> Result<Opened, Error> {
        let path = name::resolve(self.folder, self.root, name)?;
        if let Some(opened) = self.open.get(&path) {
            return Ok(opened.clone());
        }
        let opened = open_file(&path)?;
        self.open.insert(path, opened.clone());
        Ok(opened)
    }
}

/// Sources that a function opens, each once.
pub(crate) struct Opener<F> {
    function: F,
    open: HashMap<String, Opened>,
}

impl<F> Opener<F> {
    pub(crate) fn new(function: F) -> Self {
        Self {
            function,
            open: HashMap::new(),
        }
    }
}

impl<F, S> Open for Opener<F>
where
    F: FnMut(&str) -> Result<S, ReadAtError>,
    S: ReadAt + Send + Sync + 'static,
{
    fn open(&mut self, name: &str) -> Result<Opened, Error> {
        if let Some(opened) = self.open.get(name) {
            return Ok(opened.clone());
        }
        let label = Some(Path::new(name));
        let source = (self.function)(name).map_err(|error| failed(label, error))?;
        let opened = Opened::new(label, Arc::new(source))?;
        self.open.insert(name.to_owned(), opened.clone());
        Ok(opened)
    }
}

/// Opens the regular file at `path`.
fn open_file(path: &Path) -> Result<Opened, Error> {
    let failed = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    // Asked before opening: opening a pipe would wait for its other end.
    if !path.metadata().map_err(failed)?.is_file() {
        let name = path.display().to_string();
        let problem = NameProblem::NotAFile;
        return Err(Error::Name { name, problem });
    }
    let file = File::open(path).map_err(failed)?;
    Opened::new(Some(path), Arc::new(file))
}
