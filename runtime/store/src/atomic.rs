//! Files and folders that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use tempfile::{NamedTempFile, TempDir};

use crate::error::{Error, Result};
use crate::permissions::READ_ONLY;

/// How the name of what is not yet whole begins.
pub(super) const PREFIX: &str = ".tmp-";

/// Writes a file under a temporary name in the folder of `path`; it takes its own name when `write` has succeeded and
/// everything is on stable storage. Where `path` is a symbolic link, the file that it leads to is written, and the link stays.
pub fn write_file<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<T, E>,
) -> Result<T, E> {
    write(path, (0o644, Loss::Prevented), fill)
}

/// As [`write_file`], a file that only its owner can read.
pub fn write_private<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<T, E>,
) -> Result<T, E> {
    write(path, (0o600, Loss::Prevented), fill)
}

/// As [`write_file`], a file that nobody can write to afterwards.
pub fn write_read_only<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<T, E>,
) -> Result<T, E> {
    write(path, (READ_ONLY, Loss::Prevented), fill)
}

/// As [`write_read_only`], a small file whose loss is no harm: nothing waits for stable storage, and after a power cut it may be
/// missing, or empty.
pub(crate) fn write_expendable<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<(), E>,
) -> Result<(), E> {
    write(path, (READ_ONLY, Loss::Harmless), fill)
}

/// Whether a power cut may take a file back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Harmless,
    Prevented,
}

/// Writes a record in one piece.
pub fn json(file: &mut NamedTempFile, value: &impl Serialize) -> io::Result<()> {
    file.write_all(&serde_json::to_vec_pretty(value)?)
}

fn write<T, E: From<Error>>(
    path: &Path,
    (mode, loss): (u32, Loss),
    fill: impl FnOnce(&mut NamedTempFile) -> Result<T, E>,
) -> Result<T, E> {
    // A rename would put a file in the place of a link, a device or a pipe: /dev/stdout is a link to one of the latter two, or to
    // the file that standard output is.
    let target;
    let path = if path.is_symlink() {
        target = fs::canonicalize(path).map_err(Error::io(path))?;
        &target
    } else {
        path
    };
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(Error::io(path)(error).into());
    }
    let folder = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(PREFIX)
        .permissions(permissions(mode))
        .tempfile_in(folder)
        .map_err(Error::io(folder))?;
    let value = fill(&mut file)?;
    file.flush().map_err(Error::io(path))?;
    if loss == Loss::Prevented {
        file.as_file().sync_all().map_err(Error::io(path))?;
    }
    file.persist(path).map_err(|e| Error::io(path)(e.error))?;
    if loss == Loss::Prevented {
        sync_folder(folder)?;
    }
    Ok(value)
}

/// Fills a folder under a temporary name beside `path` and then renames it. Where `path` exists by then, somebody else
/// made the same folder first, and theirs stays.
pub fn write_folder<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let outer = parent(path);
    let folder = temporary_folder(outer)?;
    fill(folder.path())?;
    sync_folder(folder.path())?;
    rename(folder, path)?;
    Ok(sync_folder(outer)?)
}

/// Makes a folder under a temporary name in `outer`, which goes when it is dropped, or is swept up after a crash.
pub fn temporary_folder(outer: &Path) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(PREFIX)
        .permissions(permissions(0o700))
        .tempdir_in(outer)
        .map_err(Error::io(outer))
}

fn rename(folder: TempDir, path: &Path) -> Result<()> {
    match fs::rename(folder.path(), path) {
        Ok(()) => {
            // Renamed: there is nothing left to remove under the temporary name.
            let _ = folder.keep();
            Ok(())
        }
        Err(_) if path.is_dir() => Ok(()),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// Gives the file at `from` the second name `to`, in place of what has that name now. It survives a power cut once the folder is
/// [synced](sync_folder).
pub fn link(from: &Path, to: &Path) -> Result<()> {
    let folder = parent(to);
    let aside = tempfile::Builder::new()
        .prefix(PREFIX)
        .make_in(folder, |name| fs::hard_link(from, name))
        .map_err(Error::io(from))?;
    aside.persist(to).map_err(|e| Error::io(to)(e.error))?;
    Ok(())
}

/// Makes the names in `folder` survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io(folder))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}
