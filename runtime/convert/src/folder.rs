//! Reads a layer tree from a folder of this host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fsmerge::{LayerTree, Limits, ReadError, Sink, Stats};

use crate::error::{Error, Result};

/// Reads the tree under `root`, including mount points. `sink` receives the contents of each
/// regular file that is not empty; `failed` converts its error for the file at a path of this host.
///
/// # Errors
///
/// If a file cannot be read or is truncated meanwhile, if an image cannot hold an entry, or the
/// sink's error, as `failed` returns it.
pub(crate) fn read<S: Sink>(
    root: &Path,
    sink: &mut S,
    failed: impl FnOnce(PathBuf, S::Error) -> Error,
) -> Result<(LayerTree, Stats)> {
    let limits = Limits::default();
    fsmerge::read_dir(root, sink, &limits).map_err(|error| match error {
        ReadError::Sink { path, source, .. } => failed(host(root, &path), source),
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

/// Returns the path on this host of `path` in the tree of `root`.
pub(crate) fn host(root: &Path, path: &[u8]) -> PathBuf {
    match path {
        b"" => root.to_owned(),
        _ => root.join(OsStr::from_bytes(path)),
    }
}
