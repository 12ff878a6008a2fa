//! Files and folders that appear complete or not at all, and reading records.

mod filling;
mod folder;
mod writeback;

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use blockbox_files::parent;
pub use blockbox_files::{NewFile, NewFolder, PREFIX, remove_unfinished};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::permissions::READ_ONLY;
use filling::Filling;
pub use folder::sync_folder;
pub use writeback::start_writeback;

/// Writes an unnamed file beside `path`, and links it there once `fill` has succeeded and all data
/// is on stable storage. If `path` is a symbolic link, its target is written, and the link stays.
///
/// A file in a folder that [`write_folder`] fills is synced together with that folder.
pub fn write_file<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<T, E>,
) -> Result<T, E> {
    write(path, (0o644, Loss::Prevented), fill)
}

/// As [`write_file`], for a file that only its owner can read.
pub fn write_private<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<T, E>,
) -> Result<T, E> {
    write(path, (0o600, Loss::Prevented), fill)
}

/// As [`write_file`], for a file that is read-only afterwards.
pub fn write_read_only<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<T, E>,
) -> Result<T, E> {
    write(path, (READ_ONLY, Loss::Prevented), fill)
}

/// As [`write_read_only`], for a small file whose loss does no harm: it is not synced, and after a
/// power cut it may be missing, or empty.
pub(crate) fn write_expendable<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<(), E>,
) -> Result<(), E> {
    write(path, (READ_ONLY, Loss::Harmless), fill)
}

/// Syncs a file that has no name in the store yet, and gives it the permissions of
/// [`write_read_only`]. The name that it gets then survives a power cut once its folder is
/// [synced](sync_folder), so that several files cost one sync of the folder.
pub fn finish_read_only(file: &File) -> io::Result<()> {
    file.set_permissions(permissions(READ_ONLY))?;
    file.sync_all()
}

/// As [`write_file`], for a change that a power cut may undo: the file is then as it was before.
pub(crate) fn write_undoable<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<(), E>,
) -> Result<(), E> {
    write(path, (0o644, Loss::OfTheChange), fill)
}

/// Syncs a new file at `path` that is complete: it survives a power cut once its folder is
/// [synced](sync_folder). A file in a folder that [`write_folder`] fills is synced together with
/// that folder.
pub fn finish(file: &File, path: &Path) -> Result<()> {
    if filling::is_filled(parent(path)) {
        // The folder is not visible before all of it is synced, which then has little to write.
        start_writeback(file, 0, None);
        return Ok(());
    }
    file.sync_all().map_err(Error::io(path))
}

/// What a power cut may lose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The file, or its contents.
    Harmless,
    /// The change of the file, whose previous contents are there again.
    OfTheChange,
    /// Nothing.
    Prevented,
}

/// Reads a record of the store. It never blocks, as on a named pipe.
///
/// # Errors
///
/// Those of the system; [`io::ErrorKind::InvalidInput`] if it is not a regular file, and
/// [`io::ErrorKind::FileTooLarge`] if it has more than 64 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    const MOST: u64 = 64 << 20;

    let file = blockbox_files::open_regular(path)?;
    // One read takes it all, and another one finds the end.
    let expected = file.metadata()?.len().min(MOST) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    match file.take(MOST + 1).read_to_end(&mut bytes)? as u64 {
        0..=MOST => Ok(bytes),
        _ => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "longer than any record",
        )),
    }
}

/// Writes a record as JSON in one write.
pub fn json(file: &mut NewFile, value: &impl Serialize) -> io::Result<()> {
    file.write_all(&serde_json::to_vec_pretty(value)?)
}

/// As [`write_file`], for a file that a user named: an existing file keeps its permissions and its
/// owner, as if it were overwritten.
pub fn write_output<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<T, E>,
) -> Result<T, E> {
    let before = fs::metadata(path).ok();
    write(path, (0o644, Loss::Prevented), |file| {
        let value = fill(file)?;
        if let Some(before) = before {
            keep_attributes(file, &before).map_err(Error::io(path))?;
        }
        Ok(value)
    })
}

fn keep_attributes(file: &NewFile, before: &Metadata) -> io::Result<()> {
    // Only root may change owners. If the owner cannot be kept, the writer owns the file, as it
    // owns a new one.
    let _ = fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
    file.set_permissions(before.permissions())
}

fn write<T, E: From<Error>>(
    path: &Path,
    (mode, loss): (u32, Loss),
    fill: impl FnOnce(&mut NewFile) -> Result<T, E>,
) -> Result<T, E> {
    let target = blockbox_files::target(path).map_err(Error::io(path))?;
    let path = &target;
    let folder = parent(path);
    let mut file = NewFile::create_in(folder, mode).map_err(Error::io(folder))?;
    let value = fill(&mut file)?;
    file.flush().map_err(Error::io(path))?;
    if loss != Loss::Harmless {
        finish(file.as_file(), path)?;
    }
    file.persist(path).map_err(Error::io(path))?;
    if loss == Loss::Prevented && !filling::is_filled(folder) {
        sync_folder(folder)?;
    }
    Ok(value)
}

/// Fills a folder under a temporary name beside `path`, syncs it together with its files, and then
/// renames it. If `path` exists by then, another process made the same folder first, and that one
/// stays.
///
/// `fill` syncs hard links to files elsewhere, and the contents of subfolders, itself.
pub fn write_folder<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let outer = parent(path);
    let folder = temporary_folder(outer)?;
    let filling = Filling::begin(folder.path());
    fill(folder.path())?;
    filling.sync()?;
    rename(folder, path)?;
    Ok(sync_folder(outer)?)
}

/// Makes a folder under a temporary name in `outer`. It is removed when dropped or by
/// [`remove_unfinished`], or swept up after a crash.
pub fn temporary_folder(outer: &Path) -> Result<NewFolder> {
    NewFolder::create_in(outer).map_err(Error::io(outer))
}

fn rename(folder: NewFolder, path: &Path) -> Result<()> {
    match folder.persist(path) {
        Ok(()) => Ok(()),
        Err(_) if path.is_dir() => Ok(()),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// Links the file at `from` to `to`, replacing a file there. The link survives a power cut once the
/// folder is [synced](sync_folder).
pub fn link(from: &Path, to: &Path) -> Result<()> {
    let folder = parent(to);
    let aside = tempfile::Builder::new()
        .prefix(PREFIX)
        .make_in(folder, |name| fs::hard_link(from, name))
        .map_err(Error::io(from))?;
    aside.persist(to).map_err(|e| Error::io(to)(e.error))?;
    Ok(())
}

fn permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_record_is_read_only_from_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
        fs::write(&file, "record").unwrap();
        assert_eq!(read(&file).unwrap(), b"record");
        testkit::Node::Fifo.make(&fifo, 0o600).unwrap();
        for other in [&fifo, dir.path()] {
            let error = read(other).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{other:?}");
        }
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len((64 << 20) + 1)
            .unwrap();
        assert_eq!(read(&file).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn an_output_that_is_a_symbolic_link_is_written_to_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "before").unwrap();
        symlink("file", &link).unwrap();
        for contents in ["one", "two"] {
            write_output(&link, |out| {
                out.write_all(contents.as_bytes())
                    .map_err(Error::io("output"))
            })
            .unwrap();
            assert!(link.is_symlink());
            assert_eq!(fs::read_to_string(&file).unwrap(), contents);
            assert!(!file.is_symlink());
        }
    }

    #[test]
    fn an_output_that_replaces_a_file_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, permissions(0o600)).unwrap();
        write_output::<_, Error>(&path, |_| Ok(())).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
}
