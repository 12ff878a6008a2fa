//! The file in which the bytes of a blob are kept while it is downloaded, for a reader of the blob
//! that wants the file itself.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The files of a blob.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// Its first bytes.
    pub(crate) data: PathBuf,
    /// The list of pieces that they are.
    pub(crate) known: PathBuf,
}

impl Paths {
    /// Removes both.
    pub(crate) fn remove(&self) {
        // The list first: without it, the bytes are ignored.
        remove(&self.known);
        remove(&self.data);
        self.remove_folder();
    }

    /// Removes the list, after the bytes were given another name.
    fn remove_list(&self) {
        remove(&self.known);
        self.remove_folder();
    }

    /// Removes the folder, which stays while it has other files.
    fn remove_folder(&self) {
        if let Some(folder) = self.data.parent() {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove part of a blob");
        }
        _ => {}
    }
}

/// What becomes of the file of a blob. The download and the reader of the blob share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It is removed once all bytes were received.
    #[default]
    Temporary,
    /// The reader of the blob wants it.
    Claimed,
    /// The reader has it, with all bytes.
    Complete,
    /// It lacks bytes, is gone, or has another name.
    Lost,
}

impl Fate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file can no longer be written. Returns whether that is an error for somebody.
    #[cfg(all(unix, feature = "registry"))]
    pub(crate) fn lose(&self) -> bool {
        let before = std::mem::replace(&mut *self.lock(), State::Lost);
        before == State::Claimed
    }

    /// All bytes were received. Returns whether somebody has the file.
    #[cfg(all(unix, feature = "registry"))]
    pub(crate) fn complete(&self) -> bool {
        let mut state = self.lock();
        let claimed = *state == State::Claimed;
        *state = match claimed {
            true => State::Complete,
            false => State::Lost,
        };
        claimed
    }
}

/// The right to the file of a blob that is being downloaded.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) file: File,
    pub(crate) paths: Paths,
    pub(crate) fate: Fate,
}

impl Claim {
    /// Takes the file; `None` where it is not kept any more.
    pub(crate) fn take(self) -> Option<KeptFile> {
        let Self { file, paths, fate } = self;
        let mut state = fate.lock();
        if *state != State::Temporary {
            return None;
        }
        *state = State::Claimed;
        drop(state);
        Some(KeptFile { file, paths, fate })
    }
}

/// The file in [`Options::partial_downloads`](crate::Options::partial_downloads) that has a layer
/// as it is stored, once the layer was [read](crate::LayerReader::keep_file) to its end.
///
/// Until then a download that is interrupted goes on with it the next time. Afterwards it goes when
/// this is dropped, unless it has got [another name](Self::persist).
pub struct KeptFile {
    file: File,
    paths: Paths,
    fate: Fate,
}

impl KeptFile {
    /// The file, to read and write. Its position is the download's until the layer was read.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.paths.data
    }

    /// Gives the file the name `to`, in place of a file of that name.
    ///
    /// # Errors
    ///
    /// Those of the system, as where `to` is on another file system; that the layer was not read to
    /// its end.
    pub fn persist(self, to: &Path) -> io::Result<()> {
        if *self.fate.lock() != State::Complete {
            return Err(io::Error::other("not all bytes were received"));
        }
        fs::rename(self.path(), to)?;
        *self.fate.lock() = State::Lost;
        self.paths.remove_list();
        Ok(())
    }
}

impl fmt::Debug for KeptFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeptFile").field(&self.paths.data).finish()
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        let mut state = self.fate.lock();
        match *state {
            State::Complete => self.paths.remove(),
            State::Claimed => *state = State::Temporary,
            State::Temporary | State::Lost => {}
        }
    }
}
