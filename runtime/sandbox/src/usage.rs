//! Disk usage of the store.

use std::collections::HashSet;

use blockbox_convert::image;
use blockbox_store::Store;
use serde::Serialize;

use crate::collect::{allocated, entries, stale_kernels};
use crate::error::Result;
use crate::remove::users;
use crate::volume::Volume;

/// Usage by one kind of object. All sizes are what the files take on the host, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// The number of objects.
    pub count: u64,
    /// The number of objects in use: images and layers of sandboxes, running sandboxes, kernels
    /// that can boot.
    pub active: u64,
    /// The bytes that they take.
    pub bytes: u64,
    /// The bytes that removing unused objects would free.
    pub reclaimable: u64,
}

impl Usage {
    fn add(&mut self, bytes: u64, active: bool) {
        self.count += 1;
        self.bytes += bytes;
        match active {
            true => self.active += 1,
            false => self.reclaimable += bytes,
        }
    }
}

/// Disk usage by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Images without their layers.
    pub images: Usage,
    /// Layers. Those of images without a sandbox count as reclaimable.
    pub layers: Usage,
    /// Sandboxes.
    pub sandboxes: Usage,
    /// Named volumes. Those that no sandbox mounts count as reclaimable.
    pub volumes: Usage,
    /// Guest kernels, and recorded facts about this host's hypervisor.
    pub kernels: Usage,
}

/// Measures the store.
///
/// # Errors
///
/// If the store cannot be read.
pub fn report(store: &Store) -> Result<Report> {
    let mut report = Report::default();
    let used = users(store)?;
    let mut active_layers = HashSet::new();
    // Images hold hard links to layers: these are counted as layers.
    let mut seen = HashSet::new();
    let layers: Vec<_> = entries(&store.layers())?
        .into_iter()
        .map(|path| (allocated(&path, &mut seen), path))
        .collect();
    for digest in image::list(store)? {
        let active = used.may_use(digest.as_str());
        let bytes = allocated(&store.image(&digest), &mut seen);
        report.images.add(bytes, active);
        // If an image cannot be read, its layers are not counted as used.
        if active && let Ok(Some(image)) = image::Image::open(store, &digest) {
            active_layers.extend(image.layers().iter().map(|layer| layer.path.clone()));
        }
    }
    for (bytes, path) in layers {
        match path.extension().is_some_and(|e| e == "erofs") {
            true => report.layers.add(bytes, active_layers.contains(&path)),
            false => report.layers.bytes += bytes,
        }
    }
    for path in entries(&store.sandboxes())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let running = store.lock_sandbox(&name)?.is_none();
        let bytes = allocated(&path, &mut HashSet::new());
        report.sandboxes.add(bytes, running);
    }
    for volume in Volume::list(store)? {
        let bytes = allocated(&store.volume(volume.name()), &mut HashSet::new());
        report.volumes.add(bytes, volume.check_unused().is_err());
    }
    let stale = stale_kernels(store)?;
    for path in entries(&store.kernels())? {
        let bytes = allocated(&path, &mut HashSet::new());
        report.kernels.add(bytes, !stale.contains(&path));
    }
    Ok(report)
}
