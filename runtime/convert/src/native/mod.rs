//! EROFS-native images: their layers are EROFS images already, so that who pulls them converts
//! nothing.
//!
//! ```text
//! tar, or a layer of the store ──layers──▶ EROFS image ──wrap──▶ blob ──▶ registry, layout, archive
//!                                               └── documents ──▶ configuration, manifest, index
//! ```
//!
//! What an image says beyond overlayfs's own marks, other readers would not know. So a layer is
//! completed with what the layers below say (`fsmerge::Merge::complete`): overlayfs shows the
//! layers of a native image as they are.

pub mod chunks;
mod documents;
mod image_spec;
mod layers;
pub(crate) mod merged;
mod names;
mod options;
mod regroup;
pub(crate) mod take;
mod wrap;

use std::num::NonZeroUsize;

use blockbox_store::{Store, atomic};
use ocipull::{CopyOptions, Digest, Platform, Reference, Target};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::parallel;
use crate::progress::{self, Progress, phase};
use documents::Manifest;
pub use layers::cache_layers;
pub use options::{Format, Grouping, NativeOptions, Wrap};

/// The source of a conversion.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Source<'a> {
    /// An image outside the store.
    Reference(&'a Reference),
    /// An image of the store.
    Stored(&'a Store, &'a Image),
}

/// Makes the EROFS-native form of `source` at `target`, and returns the digest of the manifest or
/// index that the target's name refers to. The same source and options give the same digests.
///
/// # Errors
///
/// Errors of reading the source, of converting its layers, and of writing to the target, whose name
/// then refers to the same image as before.
pub fn convert(
    source: Source<'_>,
    target: &Reference,
    options: &NativeOptions,
    progress: &dyn Progress,
) -> Result<Digest> {
    let place = Target::open(target, &options.target)?;
    let kept = match source {
        Source::Reference(reference) if options.keep_tar => {
            let mut copy = CopyOptions::default();
            (copy.source, copy.target) = (options.source.clone(), options.target.clone());
            copy.jobs = options.jobs;
            Some(ocipull::copy_into(reference, &place, &copy)?)
        }
        _ => None,
    };
    let mut made = Vec::new();
    match source {
        Source::Stored(store, image) => {
            let config = image.config_bytes(store)?;
            let inputs: Vec<_> = image.layers().iter().map(layers::Input::Stored).collect();
            made.push(one(
                &inputs,
                &config,
                &Value::Null,
                &place,
                options,
                progress,
            )?);
        }
        Source::Reference(reference) => {
            let mut reading = options.source.clone();
            reading.erofs = true;
            let images = phase(progress, format!("opening {reference}"), None, |_| {
                ocipull::Image::open_all(reference, &reading)
            })?;
            for image in chosen(&images, &options.platforms)? {
                let layers = image.layers().len();
                progress.resolved(&image.manifest_digest().to_string(), layers, layers);
                let inputs: Vec<_> = (0..layers)
                    .map(|index| layers::Input::Pulled(image, index))
                    .collect();
                let manifest = serde_json::from_slice(image.manifest_bytes());
                let notes = manifest.map_or(Value::Null, |m: Value| m["annotations"].clone());
                let config = image.config_bytes();
                made.push(one(&inputs, config, &notes, &place, options, progress)?);
            }
        }
    }
    finish(place, kept, made)
}

/// Converts one image, and pushes everything except its manifest.
fn one(
    inputs: &[layers::Input<'_>],
    config: &[u8],
    notes: &Value,
    place: &Target,
    options: &NativeOptions,
    progress: &dyn Progress,
) -> Result<Manifest> {
    let staging = atomic::temporary_folder(&options.staging)?;
    let layers = layers::make(inputs, staging.path(), options, progress)?;
    let blobs = &layers.blobs;
    let jobs = match place.is_ordered() {
        true => NonZeroUsize::MIN,
        false => options.jobs,
    };
    parallel::each(blobs.len(), jobs, |number, _| {
        let blob = &blobs[number];
        let pushed = place.push_blob(&blob.digest, blob.size, None, |offset| blob.open(offset));
        Ok(pushed.map(drop)?)
    })?;
    let (config, descriptor) = documents::config(config, blobs, &layers.groups)?;
    push_bytes(place, &config)?;
    let layers = documents::layers(blobs, options.format);
    let manifest = documents::manifest(&config, descriptor, layers, notes, &options.annotations);
    if !options.merged {
        return Ok(manifest);
    }
    let what = format!("merging the metadata of {}", progress::layers(blobs.len()));
    let merged = phase(progress, what, None, |_| {
        merged::make(blobs, staging.path(), options)
    })?;
    place.push_blob(&merged.digest, merged.size, None, |offset| {
        merged.open(offset)
    })?;
    push_bytes(place, documents::EMPTY)?;
    Ok(manifest.beside(&merged))
}

fn push_bytes(place: &Target, bytes: &[u8]) -> Result<()> {
    place.push_blob(&Digest::sha256(bytes), bytes.len() as u64, None, |offset| {
        let rest = bytes.get(offset as usize..).unwrap_or_default().to_vec();
        Ok(Box::new(std::io::Cursor::new(rest)))
    })?;
    Ok(())
}

/// Returns the images for `platforms`; all if it is empty.
fn chosen<'a>(
    images: &'a [ocipull::Image],
    platforms: &[Platform],
) -> Result<Vec<&'a ocipull::Image>> {
    let of = |image: &ocipull::Image| Platform::of_config(image.config());
    let fits = |image: &ocipull::Image, wanted: &Platform| {
        of(image).is_none_or(|is_for| is_for.runs_on(wanted))
    };
    for wanted in platforms {
        if !images.iter().any(|image| fits(image, wanted)) {
            return Err(Error::Pull(ocipull::Error::NoPlatform {
                wanted: wanted.clone(),
                available: images.iter().filter_map(of).collect(),
            }));
        }
    }
    let wanted = |image: &&ocipull::Image| {
        platforms.is_empty() || platforms.iter().any(|platform| fits(image, platform))
    };
    Ok(images.iter().filter(wanted).collect())
}

/// Pushes the manifests, and sets the target's name.
fn finish(place: Target, kept: Option<ocipull::Copied>, mut made: Vec<Manifest>) -> Result<Digest> {
    let alone = kept.is_none() && made.len() == 1;
    if let Some(only) = made.pop_if(|manifest| alone && manifest.merged.is_none()) {
        return Ok(place.finish(documents::MANIFEST, &only.bytes)?);
    }
    for manifest in &made {
        place.push_manifest(documents::MANIFEST, &manifest.bytes)?;
        if let Some(merged) = &manifest.merged {
            place.push_manifest(documents::MANIFEST, merged)?;
        }
    }
    let index = documents::index(kept.as_ref(), &made);
    Ok(place.finish(documents::INDEX, &index)?)
}
