//! A layer tree from a folder of this host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fsmerge::{LayerTree, Limits, ReadError, Sink, Stats};

use crate::error::{Error, Result};

/// Reads the tree under `root`, mount points and all. `sink` takes each regular file's contents
/// that is not empty; `failed` says what its error means for the file at a path of this host.
///
/// # Errors
///
/// What the system refuses to show, a file that becomes shorter while it is read, what no image can
/// hold, and what `failed` makes of the sink's.
pub(crate) fn read<S: Sink>(
    root: &Path,
    sink: &mut S,
    failed: impl FnOnce(PathBuf, S::Error) -> Error,
) -> Result<(LayerTree, Stats)> {
    let limits = Limits::default();
    fsmerge::read_dir(root, sink, &limits).map_err(|error| match error {
        ReadError::Sink { path, source } => failed(host(root, &path), source),
        ReadError::Layer(fsmerge::Error::Read { path, source }) => {
            Error::io(host(root, &path))(source)
        }
        ReadError::Layer(fsmerge::Error::Changed { path }) => Error::Changed {
            path: host(root, &path),
        },
        ReadError::Layer(source) => Error::Folder {
            path: root.to_owned(),
            source: Box::new(source),
        },
    })
}

/// Where the path `path` of the tree of `root` is on this host.
pub(crate) fn host(root: &Path, path: &[u8]) -> PathBuf {
    match path {
        b"" => root.to_owned(),
        _ => root.join(OsStr::from_bytes(path)),
    }
}
