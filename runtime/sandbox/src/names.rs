//! The names of images, where their table is damaged.

use blockbox_store::{Reference, Repaired, Spec, Store};
use ocipull::Digest;

use crate::collect::entries;
use crate::error::Result;

/// Writes a damaged table of names again, of what can be read of it and of the names that sandboxes
/// were made with. The damaged one stays beside it. `None` where nothing was damaged.
///
/// # Errors
///
/// [`Error::Convert`](crate::Error::Convert) where the store cannot be read or written.
pub fn repair(store: &Store) -> Result<Option<Repaired>> {
    let _access = store.share()?;
    let sandboxes = entries(&store.sandboxes())?;
    // A sandbox whose record is damaged too knows no name.
    let specs = sandboxes
        .iter()
        .filter_map(|path| Spec::read(path).ok().flatten());
    let known = specs.filter_map(|spec| {
        let digest: Digest = spec.image.manifest_digest.parse().ok()?;
        let name = spec.image.reference?;
        let there = store.image(&digest).is_dir();
        there.then(|| (name, Reference::now(&digest)))
    });
    Ok(store.references().repair(known)?)
}
