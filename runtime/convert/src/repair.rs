//! Restores missing or damaged files of an image in the store.

use std::sync::Mutex;

use blockbox_store::{Store, atomic};
use ocipull::{Digest, Reference};

use crate::damage::{Finding, Part};
use crate::error::{Error, Result};
use crate::image::{self, Image, folder};
use crate::progress::{Progress, phase};
use crate::pull::{self, PullOptions};
use crate::verify::{self, Depth};

/// Opens the image with this manifest digest, after restoring the files that are missing or damaged
/// according to `options.check`: layers are fetched again by one of the image's names, and the
/// other files are made from the layers.
///
/// With [`Depth::Lengths`] this is fast enough for every start of a sandbox.
///
/// # Errors
///
/// [`Error::NoImage`]; [`Error::Damaged`] if no name leads to this image any more; errors of
/// fetching it.
pub fn open(
    store: &Store,
    digest: &Digest,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image> {
    let missing = || Error::NoImage(digest.to_string());
    if !store.image(digest).is_dir() {
        return Err(missing());
    }
    let found = verify::whole(store, digest, options.check, progress)?;
    if !found.is_empty() {
        repair(store, digest, found, options, progress)?;
    }
    Image::open(store, digest)?.ok_or_else(missing)
}

/// Restores the files of an image that `found` names, as [`open`] does.
///
/// # Errors
///
/// Those of [`open`].
pub fn repair(
    store: &Store,
    digest: &Digest,
    mut found: Vec<Finding>,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<()> {
    let access = store.share()?;
    let local =
        |finding: &Finding| matches!(finding.part, Part::Link(_) | Part::Fsmeta | Part::Disk);
    if found.iter().all(local) {
        // Files are only made from layers that are intact.
        if options.check == Depth::Lengths {
            found = verify::whole(store, digest, Depth::Contents, progress)?;
        }
        if found.iter().all(local) {
            for finding in &found {
                progress.warning(&finding.to_string());
            }
            return assemble(store, digest, &found, progress);
        }
    }
    let mut names: Vec<Reference> = Vec::new();
    for (name, target) in store.references().read()? {
        if target.manifest_digest == digest.as_str() {
            names.push(name.parse()?);
        }
    }
    // Local sources are faster, and need no server.
    names.sort_by_key(|name| !name.is_local());
    let mut failure = None;
    for name in names {
        let made = Mutex::default();
        match fetch(store, name, digest, options, progress, &made) {
            Ok(true) => return Ok(()),
            // The name leads to another image now.
            Ok(false) => {}
            Err(error) => failure = Some(error),
        }
    }
    drop(access);
    match (failure, found.into_iter().next()) {
        (Some(error), _) => Err(error),
        (None, Some(finding)) => Err(Error::Damaged {
            finding: Box::new(finding),
        }),
        (None, None) => Ok(()),
    }
}

/// Fetches the damaged files by `reference`; returns `false` if it leads to another image.
fn fetch(
    store: &Store,
    mut reference: Reference,
    digest: &Digest,
    options: &PullOptions,
    progress: &dyn Progress,
    made: &Mutex<Vec<Digest>>,
) -> Result<bool> {
    // The tag may have moved.
    if let Reference::Registry {
        digest: exact, tag, ..
    } = &mut reference
    {
        *exact = Some(digest.clone());
        *tag = None;
    }
    let what = format!("opening {reference}");
    let source = phase(progress, what, None, |_| {
        ocipull::Image::open(&reference, &options.source)
    })?;
    if source.manifest_digest() != digest {
        return Ok(false);
    }
    pull::make(store, &source, options, progress, made)?;
    Ok(true)
}

/// Makes the files again that depend only on the layers, which are intact, as are the documents.
fn assemble(
    store: &Store,
    digest: &Digest,
    found: &[Finding],
    progress: &dyn Progress,
) -> Result<()> {
    let path = store.image(digest);
    let read = |name| {
        let path = path.join(name);
        atomic::read(&path).map_err(Error::io(path))
    };
    let (manifest, config) = (read(image::MANIFEST)?, read(image::CONFIG)?);
    let parsed = ocipull::parse_config(&config).map_err(|source| {
        let path = path.join(image::CONFIG);
        blockbox_store::Error::Record { path, source }
    })?;
    let diff_ids = parsed.diff_ids().iter();
    let diff_ids: Vec<Digest> = diff_ids.map(|id| id.parse()).collect::<Result<_, _>>()?;
    let documents = (&manifest[..], &config[..]);
    folder::assemble(store, digest, documents, &diff_ids, found, progress)
}
