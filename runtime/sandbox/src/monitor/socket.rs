//! The socket of a monitor: its path and permissions.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use blockbox_store::Store;

/// Returns the path of the socket of the sandbox with this id. It is short for any path of the
/// store: a socket's path has at most 108 bytes on Linux, 104 on macOS.
pub(crate) fn path(store: &Store, id: &str) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(store.root().as_os_str().as_encoded_bytes());
    hash.update([0]);
    hash.update(id);
    let name: String = hash.finalize()[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(folder()?.join(name))
}

/// Returns `$XDG_RUNTIME_DIR/blockbox`, else `blockbox-UID` in `/tmp`: a folder that only this user
/// can enter.
fn folder() -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        // A longer path leaves no space for the socket's name.
        .filter(|path| path.is_absolute() && path.as_os_str().len() < 60)
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.uid() == uid));
    let folder = runtime.map_or_else(
        || PathBuf::from(format!("/tmp/blockbox-{uid}")),
        |runtime| runtime.join("blockbox"),
    );
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io(&folder)(e)),
        _ => {}
    }
    // All users can write to `/tmp`: the folder may belong to another user, or be a symbolic link.
    let meta = fs::symlink_metadata(&folder).map_err(Error::io(&folder))?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
        return Err(Error::RuntimeFolder(folder));
    }
    Ok(folder)
}

/// Listens for clients of the sandbox with this id, whose lock the caller holds.
pub(super) fn listen(store: &Store, id: &str) -> Result<(UnixListener, PathBuf)> {
    let path = path(store, id)?;
    // A killed monitor may have left it.
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path)(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(Error::io(&path))?;
    Ok((listener, path))
}

/// How old the socket of a killed monitor is at least, when it is removed: a younger one may be of
/// a monitor that does not listen yet.
const ABANDONED: Duration = Duration::from_secs(60);

/// Returns the sockets that killed monitors of this user left, of any store.
pub(crate) fn abandoned() -> Result<Vec<PathBuf>> {
    Ok(abandoned_in(&folder()?))
}

fn abandoned_in(folder: &Path) -> Vec<PathBuf> {
    let is_one = |path: &Path| {
        let Ok(meta) = fs::symlink_metadata(path) else {
            return false;
        };
        let age = meta.modified().ok().and_then(|time| time.elapsed().ok());
        meta.file_type().is_socket()
            && age.is_some_and(|age| age >= ABANDONED)
            && matches!(connect(path), Ok(None))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| is_one(path))
        .collect();
    found.sort();
    found
}

/// Connects to a monitor's socket; `None` if no process listens there.
pub(crate) fn connect(path: &Path) -> Result<Option<UnixStream>> {
    match UnixStream::connect(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// Returns whether the process at the other end belongs to this user, or to root.
#[cfg(target_os = "linux")]
pub(super) fn is_allowed(socket: &UnixStream) -> bool {
    let uid = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid == uid || peer.uid.is_root())
}

/// Only the folder's mode keeps other users out.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_allowed(_socket: &UnixStream) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sockets_path_is_short_for_any_store() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(200)).join("y".repeat(200));
        let store = Store::open(deep).unwrap();
        let (_listener, path) = listen(&store, "id").unwrap();
        assert!(path.as_os_str().len() < 100, "{}", path.display());
        assert!(connect(&path).unwrap().is_some());
        fs::remove_file(&path).unwrap();
        assert!(connect(&path).unwrap().is_none());
    }

    #[test]
    fn old_sockets_without_a_listener_are_abandoned() {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

        let dir = tempfile::tempdir().unwrap();
        let bind = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
        let age = |name: &str| {
            let old = Timespec {
                tv_sec: 1_000_000_000,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: old,
                last_modification: old,
            };
            utimensat(CWD, dir.path().join(name), &times, AtFlags::empty()).unwrap();
        };
        drop(bind("dead"));
        drop(bind("new"));
        let _listener = bind("alive");
        fs::write(dir.path().join("file"), "").unwrap();
        ["dead", "alive", "file"].into_iter().for_each(age);
        assert_eq!(abandoned_in(dir.path()), [dir.path().join("dead")]);
    }

    #[test]
    fn stores_do_not_share_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let stores = ["a", "b"].map(|name| Store::open(dir.path().join(name)).unwrap());
        assert_ne!(
            path(&stores[0], "id").unwrap(),
            path(&stores[1], "id").unwrap()
        );
    }
}
