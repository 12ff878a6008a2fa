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
    if last {
        users(store)?.check(name, &digest)?;
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

/// The users of images.
pub(crate) struct Users {
    /// The manifest digests of images in use, with one user of each.
    images: HashMap<String, ImageUser>,
    /// Those whose record cannot be read: they may use any image.
    unknown: Vec<ImageUser>,
}

impl Users {
    /// Returns whether an image is used, or may be.
    pub(crate) fn may_use(&self, manifest_digest: &str) -> bool {
        !self.unknown.is_empty() || self.images.contains_key(manifest_digest)
    }

    /// Returns those whose record cannot be read.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = String> {
        self.unknown.iter().map(ToString::to_string)
    }

    /// Returns an error if an image, which the user calls `name`, is used or may be.
    fn check(mut self, name: &str, manifest_digest: &str) -> Result<()> {
        let image = name.to_owned();
        match (self.images.remove(manifest_digest), self.unknown.pop()) {
            (Some(user), _) => Err(Error::ImageInUse { image, user }),
            (None, Some(user)) => Err(Error::UseUnknown {
                object: format!("image {image:?}"),
                user,
            }),
            (None, None) => Ok(()),
        }
    }
}

/// Returns the images that sandboxes and snapshots use. Machines in the pool are not counted,
/// because they are removed with their image.
///
/// # Errors
///
/// If the store cannot be read.
pub(crate) fn users(store: &Store) -> Result<Users> {
    let (snapshots, sandboxes) = (Snapshot::list(store)?, Spec::list(store)?);
    let mut images = HashMap::new();
    for snapshot in snapshots.found.into_iter().filter(|found| !found.warm) {
        let user = ImageUser::Snapshot(snapshot.name);
        add(&mut images, &snapshot.spec, &user);
    }
    for sandbox in sandboxes.found {
        let user = ImageUser::Sandbox(sandbox.name.clone());
        add(&mut images, &sandbox, &user);
    }
    let snapshots = snapshots.damaged.into_iter();
    let sandboxes = sandboxes.damaged.into_iter();
    let unknown = snapshots
        .map(|damaged| ImageUser::Snapshot(damaged.name))
        .chain(sandboxes.map(|damaged| ImageUser::Sandbox(damaged.name)));
    let unknown = unknown.collect();
    Ok(Users { images, unknown })
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
