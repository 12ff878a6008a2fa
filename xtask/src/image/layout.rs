//! Writes the image as an OCI image layout.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::layer::{Blob, Layer, digest};
use super::recipe::Compression;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Writes the layout `image`, and beside it one whose layers are all gzip (`image-gzip`), because
/// umoci does not support zstd.
pub(super) fn write(image: &Path, config: &Value, layers: &[Layer]) -> Result<()> {
    write_one(image, config, layers, |layer| {
        (layer.compression, &layer.blob)
    })?;
    write_one(&beside(image, "-gzip"), config, layers, |layer| {
        (Compression::Gzip, &layer.gzip)
    })
}

/// Returns the path with `suffix` appended.
fn beside(image: &Path, suffix: &str) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn write_one(
    image: &Path,
    config: &Value,
    layers: &[Layer],
    choose: impl Fn(&Layer) -> (Compression, &Blob),
) -> Result<()> {
    let new = beside(image, "-new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    let blobs = new.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut descriptors = Vec::new();
    for layer in layers {
        let (compression, blob) = choose(layer);
        fs::hard_link(&blob.path, blobs.join(hash(&blob.digest)?))?;
        descriptors.push(json!({
            "mediaType": compression.media_type(),
            "digest": blob.digest,
            "size": blob.size,
        }));
    }
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| layer.diff_id.as_str()).collect::<Vec<_>>(),
        },
        "history": layers.iter().map(|layer| json!({"created_by": layer.why})).collect::<Vec<_>>(),
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put(&blobs, CONFIG, &config)?,
        "layers": descriptors,
    });
    let mut index = put(&blobs, MANIFEST, &manifest)?;
    index["platform"] = json!({"architecture": architecture(), "os": "linux"});
    index["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    fs::write(
        new.join("oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"}).to_string(),
    )?;
    let index = json!({"schemaVersion": 2, "manifests": [index]});
    fs::write(new.join("index.json"), index.to_string())?;
    let read = |image: &Path| fs::read(image.join("index.json"));
    if read(image).ok() == Some(read(&new)?) {
        // Leave the existing image alone, because it may be in use.
        fs::remove_dir_all(&new)?;
        return Ok(());
    }
    if image.exists() {
        fs::remove_dir_all(image)?;
    }
    fs::rename(&new, image)?;
    Ok(())
}

/// Stores a JSON blob and returns its descriptor.
fn put(blobs: &Path, media_type: &str, value: &Value) -> Result<Value> {
    let bytes = value.to_string().into_bytes();
    let digest = digest(&mut &bytes[..])?;
    fs::write(blobs.join(hash(&digest)?), &bytes)?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
}

fn hash(digest: &str) -> Result<&str> {
    digest.strip_prefix("sha256:").context("a SHA-256 digest")
}

/// Returns this machine's architecture, in the naming of OCI images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
