//! The merged metadata of an image as a blob of its own, so that others need not merge.
//!
//! The image itself stays one that every client understands: the blob is in an artifact, which is
//! about the image and stands beside it in the index.
//!
//! Whether the blob shows what the layers show, nothing proves but making it again, which takes a
//! tenth of a second for ten layers. So a pull makes it in any case, from layers that are verified,
//! and the blob, which must then be the same byte for byte, is not even fetched: its digest is
//! compared. An image of the store shows its layers, whatever else came with it.

use std::path::Path;

use ocipull::spec::Descriptor;

use super::NativeOptions;
use super::wrap::{self, Blob};
use crate::error::Result;
use crate::progress::Progress;
use crate::stack;

/// The type of the blob, and of the artifact that it is in.
pub(super) const MERGED: &str = "application/vnd.erofs.layer.merged.v1";

/// Makes the merged metadata of `layers`, as a store makes it that pulls them.
pub(super) fn make(layers: &[Blob], staging: &Path, options: &NativeOptions) -> Result<Blob> {
    let inputs: Vec<_> = layers
        .iter()
        .map(|layer| stack::Input {
            path: layer.image.clone(),
            tag: layer.diff_id.hex().to_owned(),
        })
        .collect();
    let path = staging.join("merged.erofs");
    stack::write(&inputs, &path)?;
    Blob::of(&path, MERGED, options)
}

/// Warns where `source` came with merged metadata that is not `fsmeta`, which was made of its
/// layers. That the former cannot be had is no error: it is not needed.
pub(crate) fn compare(
    source: &ocipull::Image,
    fsmeta: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let artifact = match source.artifact(MERGED) {
        Ok(None) => return Ok(()),
        Ok(Some(artifact)) => artifact,
        Err(error) => {
            progress.warning(&format!(
                "the image's merged metadata is made anew: {error}"
            ));
            return Ok(());
        }
    };
    let made = wrap::digest_of(fsmeta)?;
    if artifact.layers().first().and_then(uncompressed) != Some(made.as_str()) {
        progress.warning(
            "the image's merged metadata is not what its layers are together, and is made anew",
        );
    }
    Ok(())
}

/// The digest of the blob without its zstd frames.
fn uncompressed(blob: &Descriptor) -> Option<&str> {
    match blob.media_type().strip_prefix(MERGED)? {
        "" => Some(blob.digest()),
        _ => blob
            .annotations()
            .get(wrap::UNCOMPRESSED)
            .map(String::as_str),
    }
}
