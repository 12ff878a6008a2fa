//! Loads all images of an archive that `docker save` wrote, or of an OCI layout in a tar.

use std::path::Path;

use blockbox_store::{Reference, Store};
use ocipull::Reference as Place;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::progress::Progress;
use crate::pull::{PullOptions, pull};

/// A loaded image.
#[derive(Debug)]
pub struct Loaded {
    /// The image.
    pub image: Image,
    /// Its name in the store, if the archive has one.
    pub name: Option<String>,
}

/// Loads all images of the archive `file` into the store, under the names in the archive. The
/// archive may be compressed as a whole.
///
/// # Errors
///
/// If it is not an archive of images, or an image is invalid. The images before that one are
/// loaded.
pub fn load(
    store: &Store,
    file: &Path,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>> {
    let place = |dockers: bool, tag: &str| {
        let (file, tag) = (file.to_owned(), Some(tag.to_owned()));
        match dockers {
            true => Place::DockerArchive { file, tag },
            false => Place::OciArchive { file, tag },
        }
    };
    let (dockers, mut names) = match names(&place(true, ""), options) {
        Err(Error::Pull(ocipull::Error::InvalidSource { .. })) => {
            (false, names(&place(false, ""), options)?)
        }
        names => (true, names?),
    };
    // Full names come before tags alone, and tags before positions.
    names.sort_by_key(|name| (!name.contains(['/', ':']), name.starts_with('@')));
    let mut loaded: Vec<Loaded> = Vec::new();
    for tag in names {
        let place = place(dockers, &tag);
        let canonical = place.canonical().to_string();
        let before = store.references().read()?.contains_key(&canonical);
        let image = pull(store, &place, options, progress)?;
        let is_name = tag.contains(['/', ':']) && !tag.starts_with('@');
        let name = match tag.parse::<Place>() {
            Ok(name @ Place::Registry { digest: None, .. }) if is_name => Some(name.to_string()),
            _ => None,
        };
        let target = Reference::now(image.digest());
        store.references().update(|table| {
            // The archive's reference is not a name of the image.
            if !before {
                table.remove(&canonical);
            }
            if let Some(name) = &name {
                table.insert(name.clone(), target);
            }
        })?;
        let known = |other: &Loaded| other.image.digest() == image.digest();
        if name.is_some() || !loaded.iter().any(known) {
            loaded.push(Loaded { image, name });
        }
    }
    Ok(loaded)
}

/// Returns the names of the images of an archive. Opening a name that does not exist makes ocipull
/// list them all.
fn names(nobody: &Place, options: &PullOptions) -> Result<Vec<String>> {
    match ocipull::Image::open(nobody, &options.source) {
        Err(ocipull::Error::NoSuchImage { available, .. }) => Ok(available),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(Vec::new()),
    }
}
