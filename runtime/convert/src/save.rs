//! Writes images of the store as an OCI layout: in a folder, or in a tar that docker, podman and
//! skopeo load.
//!
//! The store does not keep layers' tars, so they are generated from the layers' images. They hold
//! the same files, but not the same bytes: a saved image has other diff IDs, and so another digest,
//! than the pulled one. The same image always gives the same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use blockbox_store::Meter;
use ocipull::{ArchiveWriter, Digest, Options, Reference, Target};
use serde_json::json;

use crate::commit::Hashed;
use crate::error::{Error, Result};
use crate::files::write_oci_layer;
use crate::image::{CONFIG, Image};
use crate::progress::{Progress, phase};
use crate::{populate, reader};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image to save, and its name, if any.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its name: `HOST/REPO:TAG`, or a tag. Other references are not saved.
    pub name: Option<&'a str>,
}

/// Writes images to `out` as a tar of an OCI layout, which `docker save` writes, too.
///
/// # Errors
///
/// If a layer is damaged; [`Error::Output`].
pub fn to_archive(images: &[Named<'_>], out: impl Write, progress: &dyn Progress) -> Result<()> {
    let mut archive = ArchiveWriter::new(out).map_err(output)?;
    for named in images {
        let parts = Parts::write(named.image, progress, &mut |digest, size, open| {
            archive
                .push_blob(digest, size, open)
                .map(drop)
                .map_err(output)
        })?;
        // Docker refuses a whole archive for one name of another kind.
        let name = named.name.filter(|name| !is_local(name));
        let tag = name.map(|name| name.rsplit_once(':').map_or(name, |(_, tag)| tag));
        // Docker only accepts full names.
        let whole = name.filter(|name| name.contains([':', '/']));
        let manifest = (MANIFEST_TYPE, &parts.manifest[..]);
        let blobs = (&parts.config, &parts.layers[..]);
        archive
            .add_image(manifest, blobs, whole, tag)
            .map_err(output)?;
    }
    archive.finish().map(drop).map_err(output)
}

/// Returns whether a name is a reference to a layout, an archive or a daemon, not to a registry.
fn is_local(name: &str) -> bool {
    let reference = name.parse::<Reference>();
    reference.is_ok_and(|reference| !matches!(reference, Reference::Registry { .. }))
}

/// Writes an image to the OCI layout in `folder`, which is created if needed, under `tag`. An image
/// with the same tag loses it.
///
/// # Errors
///
/// If a layer is damaged, or the folder cannot be written or holds something else.
pub fn to_folder(
    image: &Image,
    folder: &Path,
    tag: Option<&str>,
    progress: &dyn Progress,
) -> Result<()> {
    let reference = Reference::OciLayout {
        dir: folder.to_owned(),
        tag: tag.map(str::to_owned),
    };
    let target = Target::open(&reference, &Options::default())?;
    let parts = Parts::write(image, progress, &mut |digest, size, open| {
        Ok(target.push_blob(digest, size, None, open).map(drop)?)
    })?;
    target.finish(MANIFEST_TYPE, &parts.manifest)?;
    Ok(())
}

/// Converts an error of an archive; an error of its output becomes [`Error::Output`].
fn output(error: ocipull::Error) -> Error {
    match error {
        ocipull::Error::Write { source } => Error::Output(source),
        error => error.into(),
    }
}

/// Opens the bytes of a blob from an offset on.
type Open<'a> = &'a mut dyn FnMut(u64) -> io::Result<Box<dyn Read>>;

/// Receives a blob and its size.
type Push<'a> = &'a mut dyn FnMut(&Digest, u64, Open<'_>) -> Result<()>;

/// The parts of an image, once its blobs are written.
struct Parts {
    manifest: Vec<u8>,
    config: Digest,
    layers: Vec<Digest>,
}

impl Parts {
    /// Writes an image's layers and its configuration.
    fn write(image: &Image, progress: &dyn Progress, push: Push<'_>) -> Result<Self> {
        let (mut digests, mut layers) = (Vec::new(), Vec::new());
        let count = image.layers().len();
        progress.resolved(&image.digest().to_string(), count, count);
        for layer in image.layers() {
            let length = fs::metadata(&layer.path)
                .map_err(Error::io(&layer.path))?
                .len();
            let what = format!("reading layer {}", layer.diff_id);
            let (tar, digest, size) = phase(progress, what, Some(length), |meter| {
                layer_tar(&layer.path, meter)
            })?;
            let what = format!("writing layer {digest}");
            phase(progress, what, Some(size), |meter| {
                push(&digest, size, &mut |from| {
                    let mut tar = tar.try_clone()?;
                    tar.seek(SeekFrom::Start(from))?;
                    Ok(Box::new(meter.measure(tar)))
                })
            })?;
            layers.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest.as_str(),
                "size": size,
            }));
            digests.push(digest);
        }
        let mut config = image.document(CONFIG)?;
        let ids: Vec<_> = digests.iter().map(Digest::as_str).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": ids });
        let config = config.to_string().into_bytes();
        let config_digest = Digest::sha256(&config);
        let size = config.len() as u64;
        push(&config_digest, size, &mut |from| {
            let start = usize::try_from(from).unwrap_or(usize::MAX);
            let rest = config.get(start..).unwrap_or_default().to_vec();
            Ok(Box::new(io::Cursor::new(rest)))
        })?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest.as_str(),
                "size": size,
            },
            "layers": layers,
        });
        Ok(Self {
            manifest: manifest.to_string().into_bytes(),
            config: config_digest,
            layers: digests,
        })
    }
}

/// Writes the tar of a layer to a temporary file. `meter` counts its bytes.
fn layer_tar(path: &Path, meter: &Meter) -> Result<(File, Digest, u64)> {
    let failed = |source| Error::io(std::env::temp_dir())(source);
    let image = reader::open(path, &[])?;
    let mut contents = populate::new_store()?;
    let tree = populate::read_image(&mut contents, &image, path)?;
    let mut spool = tempfile::tempfile().map_err(failed)?;
    let metered = meter.measure(&spool);
    let mut hashed = Hashed::new(BufWriter::with_capacity(256 << 10, metered));
    write_oci_layer(&tree, &mut contents, &mut hashed)?;
    hashed.out.flush().map_err(failed)?;
    let (digest, size) = hashed.finish()?;
    spool.rewind().map_err(failed)?;
    Ok((spool, digest, size))
}
