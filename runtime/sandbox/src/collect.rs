//! Removes what is no longer needed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blockbox_convert::image;
use blockbox_store::{Exclusive, Spec, Store, remove};
use blockbox_vmm::{Arch, kernel};
use serde::Serialize;

use crate::error::Result;
use crate::monitor::socket;
use crate::remove::{unnamed, users};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Collected {
    /// The names of images.
    pub names: Vec<String>,
    /// The manifest digests of images.
    pub images: Vec<String>,
    /// Other files and folders.
    pub files: Vec<PathBuf>,
    /// The sandboxes and snapshots whose records cannot be read. They may use any image, so all
    /// images are kept.
    pub unknown_use: Vec<String>,
    /// The number of bytes freed in the store.
    pub bytes: u64,
}

/// Removes images that have no name and that no sandbox uses, or, if `named`, all images that no
/// sandbox uses; and layers that belong to no image.
///
/// # Errors
///
/// If the store cannot be read or changed.
pub fn prune(store: &Store, named: bool) -> Result<Collected> {
    measured(store, |access| prune_images(store, access, named))
}

/// Removes everything that is no longer referenced: images and layers as [`prune`] does, layers and
/// blobs of interrupted pulls, temporary files, remains of sandboxes that were being made, and
/// stale locks. Named images and sandboxes are kept.
///
/// # Errors
///
/// If the store cannot be read or changed.
pub fn collect(store: &Store) -> Result<Collected> {
    measured(store, |access| {
        let mut collected = prune_images(store, access, false)?;
        for layer in store.unused_layers()? {
            collected.files.push(layer);
        }
        access.remove_unused_layers(store, |_| true)?;
        // The folder of sockets may be unusable; no sandbox can start then, and says so.
        let sockets = socket::abandoned().unwrap_or_default();
        for path in orphans(store)?.into_iter().chain(sockets) {
            remove(&path)?;
            collected.files.push(path);
        }
        Ok(collected)
    })
}

fn measured(store: &Store, act: impl FnOnce(&Exclusive) -> Result<Collected>) -> Result<Collected> {
    // Getting the exclusive lock sweeps up temporary files and stale locks.
    let before = allocated(store.root(), &mut HashSet::new());
    let access = store.exclusive()?;
    let mut collected = act(&access)?;
    let after = allocated(store.root(), &mut HashSet::new());
    collected.bytes = before.saturating_sub(after);
    Ok(collected)
}

fn prune_images(store: &Store, access: &Exclusive, named: bool) -> Result<Collected> {
    let mut collected = Collected::default();
    let used = users(store)?;
    collected.unknown_use = used.unknown().collect();
    let names = store.references().read()?;
    for digest in image::list(store)? {
        let text = digest.to_string();
        let of_image: Vec<_> = names
            .iter()
            .filter(|(_, target)| target.manifest_digest == text)
            .map(|(name, _)| name.clone())
            .collect();
        if used.may_use(&text) || !(named || of_image.is_empty()) {
            continue;
        }
        store
            .references()
            .update(|table| table.retain(|name, _| !of_image.contains(name)))?;
        let warm = unnamed(store, access, &digest)?;
        let folders = warm.iter().map(|name| store.snapshot(name));
        collected.files.extend(folders);
        collected.names.extend(of_image);
        collected.images.push(text);
    }
    Ok(collected)
}

/// Returns records of missing layers, folders of sandboxes without a record (those with a damaged
/// one are kept), partial downloads, and
/// stale files in the folder of kernels.
fn orphans(store: &Store) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(&store.layers())? {
        if path.extension().is_some_and(|e| e == "json") && !path.with_extension("erofs").exists() {
            found.push(path);
        }
    }
    // A sandbox's folder is renamed into place with its record, so no process uses one without a
    // record.
    for path in entries(&store.sandboxes())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if matches!(Spec::read(&path), Ok(None)) && store.lock_sandbox(&name)?.is_some() {
            found.push(path);
        }
    }
    found.extend(entries(&store.downloads())?);
    found.extend(stale_kernels(store)?);
    Ok(found)
}

/// Returns stale files in the folder of kernels; none if there is no kernel to use.
pub(crate) fn stale_kernels(store: &Store) -> Result<Vec<PathBuf>> {
    let folder = store.kernels();
    let locate = |arch| kernel::locate(None, store.root(), &folder, arch).ok();
    let mut current: Vec<_> = locate(Arch::HOST).into_iter().collect();
    if !current.is_empty() {
        current.extend(Arch::foreign().filter_map(locate));
    }
    Ok(kernel::stale(&folder, &current)?)
}

pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let names = blockbox_store::names(folder)?.into_iter();
    Ok(names.map(|name| folder.join(name)).collect())
}

/// Returns the bytes that all files under `path` take on the host; hard links to one file are
/// counted once. Files that are removed meanwhile, or cannot be read, are not counted.
pub(crate) fn allocated(path: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !meta.is_dir() {
        return match seen.insert((meta.dev(), meta.ino())) {
            true => meta.blocks().saturating_mul(512),
            false => 0,
        };
    }
    let children = fs::read_dir(path).into_iter().flatten().flatten();
    children
        .map(|child| allocated(&child.path(), seen))
        .fold(0, u64::saturating_add)
}
