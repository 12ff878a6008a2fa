//! Input layers from OCI layouts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A layer whose tar is compressed with gzip.
pub(super) struct Layer {
    /// `IMAGE layer N of M`, counted from the lowest.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Compressed bytes.
    pub(super) size: u64,
}

/// An image and its layers, lowest first.
pub(super) struct Image {
    pub(super) name: String,
    /// The tag in the layout.
    pub(super) tag: Option<String>,
    pub(super) layers: Vec<Layer>,
}

impl Image {
    /// Reads the first manifest of an OCI layout.
    pub(super) fn open(layout: &Path) -> Result<Self> {
        let folder = fs::canonicalize(layout).with_context(|| layout.display().to_string())?;
        let name = folder.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let index = read(&folder.join("index.json"))?;
        let first = &index["manifests"][0];
        let tag = &first["annotations"]["org.opencontainers.image.ref.name"];
        let manifest = read(&blob(&folder, first)?)?;
        let descriptors = manifest["layers"]
            .as_array()
            .with_context(|| format!("{}: no image manifest", folder.display()))?;
        let mut layers = Vec::new();
        for (number, descriptor) in descriptors.iter().enumerate() {
            let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
            ensure!(
                media_type.ends_with("gzip"),
                "{}: layer {} is not gzip but {media_type}",
                folder.display(),
                number + 1
            );
            let path = blob(&folder, descriptor)?;
            layers.push(Layer {
                name: format!("{name} layer {} of {}", number + 1, descriptors.len()),
                size: fs::metadata(&path)?.len(),
                path,
            });
        }
        Ok(Self {
            name,
            tag: tag.as_str().map(str::to_owned),
            layers,
        })
    }
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn blob(folder: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"]
        .as_str()
        .and_then(|d| d.split_once(':'));
    let (algorithm, hash) = digest.with_context(|| format!("{}: no digest", folder.display()))?;
    Ok(folder.join("blobs").join(algorithm).join(hash))
}

/// Decompresses a layer to `tar`.
pub(super) fn gunzip(layer: &Path, tar: &Path) -> Result<u64> {
    let status = Command::new("gzip")
        .arg("-dc")
        .stdin(File::open(layer)?)
        .stdout(Stdio::from(File::create(tar)?))
        .status()
        .context("gzip")?;
    ensure!(status.success(), "gzip -dc < {}: {status}", layer.display());
    Ok(fs::metadata(tar)?.len())
}
