//! Removing images.

use blockbox_convert::image::Image;
use blockbox_store::{Spec, Store, remove};

use crate::error::{Error, Result};

/// Removes an image's name or, where `name` is a digest, all its names; without a name left, the image itself and the
/// layers that no other image has. Says what was removed: names, then the digest.
///
/// # Errors
///
/// [`Error::ImageInUse`] where this would remove the disks of a sandbox; nothing is removed then.
pub fn image(store: &Store, name: &str) -> Result<Vec<String>> {
    let access = store.exclusive()?;
    let image = Image::find(store, name)?;
    let digest = image.digest().to_string();
    let canonical = name
        .parse::<ocipull::Reference>()
        .map(|reference| reference.canonical().to_string())
        .ok();

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
        let mut sandboxes = Spec::list(store)?.into_iter();
        if let Some(user) = sandboxes.find(|sandbox| sandbox.image.manifest_digest == digest) {
            return Err(Error::ImageInUse {
                image: name.to_owned(),
                sandbox: user.name,
            });
        }
    }
    store.references().update(|table| {
        for name in &removed {
            table.remove(name);
        }
    })?;
    if last {
        remove(&store.image(image.digest()))?;
        access.remove_unused_layers(store, |_| true)?;
        removed.push(digest);
    }
    Ok(removed)
}
