//! Syncs folders, and files together.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use crate::error::{Error, Result};

/// The most files that are synced at the same time.
const AT_A_TIME: usize = 16;

/// Makes the names in `folder` survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    sync(folder)
}

/// Syncs files and folders at the same time: one after the other, each sync would wait for a commit
/// of the file system's journal and for the disk to write out its cache, and together they wait for
/// the same.
pub(super) fn sync_together(paths: &[PathBuf]) -> Result<()> {
    paths.chunks(AT_A_TIME).try_for_each(|paths| {
        let Some((own, others)) = paths.split_first() else {
            return Ok(());
        };
        thread::scope(|scope| {
            let start = others.iter().map(|path| {
                let thread = thread::Builder::new().name("sync".to_owned());
                let started = thread.spawn_scoped(scope, move || sync(path));
                started.map_err(|_| path)
            });
            let others: Vec<_> = start.collect();
            let mut synced = sync(own);
            for other in others {
                let other = match other {
                    Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                    // Without a thread, it takes longer.
                    Err(path) => sync(path),
                };
                synced = synced.and(other);
            }
            synced
        })
    })
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_file_that_cannot_be_synced_is_reported_wherever_it_is_among_others() {
        let dir = tempfile::tempdir().unwrap();
        let name = |i: usize| dir.path().join(i.to_string());
        let mut paths: Vec<_> = (0..2 * AT_A_TIME + 3).map(name).collect();
        for path in &paths {
            File::create(path).unwrap();
        }
        sync_together(&paths).unwrap();
        sync_together(&[]).unwrap();
        for at in [0, 5, paths.len() - 1] {
            let there = std::mem::replace(&mut paths[at], dir.path().join("missing"));
            let error = sync_together(&paths).unwrap_err().to_string();
            assert!(error.contains("missing"), "{error}");
            paths[at] = there;
        }
    }
}
