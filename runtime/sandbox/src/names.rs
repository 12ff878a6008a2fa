//! Repairs the table of the names of images.

use blockbox_store::{Reference, Repaired, Spec, Store};
use ocipull::Digest;

use crate::collect::entries;
use crate::error::Result;

/// Replaces a damaged table of names with one of the names that can be read from it and of those in
/// the records of sandboxes. The damaged table is kept beside it. `None` if the table is not
/// damaged.
///
/// # Errors
///
/// [`Error::Convert`](crate::Error::Convert) if the store cannot be read or written.
pub fn repair(store: &Store) -> Result<Option<Repaired>> {
    let _access = store.share()?;
    let sandboxes = entries(&store.sandboxes())?;
    // The record of a sandbox may be damaged, too.
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
