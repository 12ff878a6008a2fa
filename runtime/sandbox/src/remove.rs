//! Removes images.

use std::collections::HashMap;

use blockbox_convert::image::Image;
use blockbox_store::snapshot::Snapshot;
use blockbox_store::spec::MountSource;
use blockbox_store::{Exclusive, Spec, Store, remove};
use ocipull::Digest;

use crate::error::{Error, ImageUser, Result};
use crate::snapshot::pool;

/// Removes an image's name or, if `name` is a digest, all its names. If no name is left, the image
/// itself is removed, with its machines in the pool and the layers that belong to no other image.
/// Returns what was removed: names, then the digest.
///
/// # Errors
///
/// [`Error::ImageInUse`] if this would remove the disks of a sandbox; nothing is removed then.
pub fn image(store: &Store, name: &str) -> Result<Vec<String>> {
    let access = store.exclusive()?;
    let image = Image::resolve(store, name)?;
    let digest = image.to_string();
    let canonical = Image::entry(store, name)?.map(|(name, _)| name);
    let all: Vec<String> = store
        .references()
        .read()?
        .into_iter()
        .filter(|(_, target)| target.manifest_digest == digest)
        .map(|(reference, _)| reference)
        .collect();
    let mut removed = match canonical.filter(|name| all.contains(name)) {
        Some(name) => vec![name],
        None => all.clone(),
    };
    let last = removed.len() == all.len();
    if last && let Some(user) = users(store)?.remove(&digest) {
        let image = name.to_owned();
        return Err(Error::ImageInUse { image, user });
    }
    store.references().update(|table| {
        for name in &removed {
            table.remove(name);
        }
    })?;
    if last {
        removed.extend(unnamed(store, &access, &image)?);
        removed.push(digest);
    }
    Ok(removed)
}

/// Removes an image that has no name and that no sandbox uses, its machines in the pool, and the
/// layers that belong to no other image. Returns the names of these machines.
pub(crate) fn unnamed(store: &Store, access: &Exclusive, image: &Digest) -> Result<Vec<String>> {
    let warm = pool::forget(store, image.as_str())?;
    remove(&store.image(image))?;
    access.remove_unused_layers(store, |_| true)?;
    Ok(warm)
}

/// Returns the manifest digests of the images that sandboxes and snapshots use, with one user of
/// each. Machines in the pool are not counted, because they are removed with their image.
///
/// # Errors
///
/// If a record cannot be read, because its images are then unknown.
pub(crate) fn users(store: &Store) -> Result<HashMap<String, ImageUser>> {
    let mut users = HashMap::new();
    let snapshots = Snapshot::list(store)?;
    for snapshot in snapshots.into_iter().filter(|snapshot| !snapshot.warm) {
        let user = ImageUser::Snapshot(snapshot.name);
        add(&mut users, &snapshot.spec, &user);
    }
    for sandbox in Spec::list(store)? {
        let user = ImageUser::Sandbox(sandbox.name.clone());
        add(&mut users, &sandbox, &user);
    }
    Ok(users)
}

/// Adds the image of a sandbox, and those that it mounts.
fn add(users: &mut HashMap<String, ImageUser>, spec: &Spec, user: &ImageUser) {
    for mount in &spec.mounts {
        if let MountSource::Image {
            manifest_digest, ..
        } = &mount.source
        {
            users.insert(manifest_digest.clone(), user.clone());
        }
    }
    if spec.root_disk.is_none() {
        users.insert(spec.image.manifest_digest.clone(), user.clone());
    }
}
