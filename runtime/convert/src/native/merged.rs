//! The merged metadata of an image as a separate blob, so that other clients need not merge.
//!
//! The image itself can be used by every client: the blob is in an artifact that refers to the
//! image and is next to it in the index.
//!
//! Only merging the layers again proves that the blob matches them, and that takes a tenth of a
//! second for ten layers. So a pull always merges the verified layers. The blob must then be
//! identical byte for byte, so it is not even fetched: its digest is compared. Images in the store
//! always match their layers, whatever else was pulled with them.

use std::path::Path;

use blockbox_store::Meter;
use ocipull::spec::Descriptor;

use super::options::NativeOptions;
use super::wrap::{self, Blob};
use crate::error::Result;
use crate::progress::Progress;
use crate::stack;

/// The media type of the blob, and of its artifact.
pub(super) const MERGED: &str = "application/vnd.erofs.layer.merged.v1";

/// Makes the merged metadata of `layers`, in the same way as a store that pulls them.
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
    Blob::of(&path, MERGED, options, &Meter::default())
}

/// Warns if `source` has merged metadata that differs from `fsmeta`, which was made from its
/// layers. If the metadata cannot be fetched, that is not an error, because it is not needed.
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
    let made = wrap::digest_of(fsmeta, &Meter::default())?;
    if artifact.layers().first().and_then(uncompressed) != Some(made.as_str()) {
        progress.warning(
            "the image's merged metadata is not what its layers are together, and is made anew",
        );
    }
    Ok(())
}

/// Returns the digest of the blob without its zstd frames.
fn uncompressed(blob: &Descriptor) -> Option<&str> {
    match blob.media_type().strip_prefix(MERGED)? {
        "" => Some(blob.digest()),
        _ => blob
            .annotations()
            .get(wrap::UNCOMPRESSED)
            .map(String::as_str),
    }
}
