//! An image in the store.

use std::fs;
use std::path::{Path, PathBuf};

use blockbox_store::{self as store, Store};
use ocipull::Digest;
use ocipull::spec::{ImageConfiguration, ImageManifest};

use crate::error::{Error, Result};
use crate::stack::Input;

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const FSMETA: &str = "fsmeta.erofs";
pub(crate) const DISK: &str = "disk.vmdk";

/// An image whose disks are ready to boot.
#[derive(Clone, Debug)]
pub struct Image {
    folder: PathBuf,
    digest: Digest,
    manifest: ImageManifest,
    config: ImageConfiguration,
    layers: Vec<Layer>,
}

/// A layer of an image in the store.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The digest of the layer's uncompressed tar.
    pub diff_id: Digest,
    /// The layer's EROFS image.
    pub path: PathBuf,
}

impl Image {
    /// Opens the image with this manifest digest; `None` where the store has none.
    pub fn open(store: &Store, digest: &Digest) -> Result<Option<Self>> {
        let folder = store.image(digest);
        if !folder.is_dir() {
            return Ok(None);
        }
        let config = read_json(&folder.join(CONFIG), ocipull::parse_config)?;
        let layers = config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|diff_id| {
                let diff_id: Digest = diff_id.parse()?;
                Ok(Layer {
                    path: store.layer(&diff_id),
                    diff_id,
                })
            })
            .collect::<Result<_, ocipull::Error>>()?;
        let manifest = read_json(&folder.join(MANIFEST), ocipull::parse_manifest)?;
        Ok(Some(Self {
            digest: digest.clone(),
            manifest,
            config,
            layers,
            folder,
        }))
    }

    /// Opens the image that `name` points at, or whose manifest digest (or the beginning of it) `name` is.
    pub fn find(store: &Store, name: &str) -> Result<Self> {
        let missing = || Error::NoImage(name.to_owned());
        if let Ok(reference) = name.parse()
            && let Some(image) = Self::named(store, &reference)?
        {
            return Ok(image);
        }
        let references = store.references().read()?;
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let mut matches = references
            .values()
            .map(|r| &r.manifest_digest)
            .filter(|digest| {
                prefix.len() >= 6 && digest.trim_start_matches("sha256:").starts_with(prefix)
            });
        let digest = matches.next().ok_or_else(missing)?;
        if matches.any(|other| other != digest) {
            return Err(missing());
        }
        Self::open(store, &digest.parse()?)?.ok_or_else(missing)
    }

    /// Opens the image that was last pulled as `reference`; `None` where the store has none of this name. What a local reference
    /// names may have changed since.
    pub fn named(store: &Store, reference: &ocipull::Reference) -> Result<Option<Self>> {
        let references = store.references().read()?;
        match references.get(&reference.canonical().to_string()) {
            Some(reference) => Self::open(store, &reference.manifest_digest.parse()?),
            None => Ok(None),
        }
    }

    /// Whether the image runs on a machine that is `machine`; one that does not say what it is for does.
    pub fn runs_on(&self, machine: &ocipull::Platform) -> bool {
        ocipull::Platform::of_config(&self.config).is_none_or(|is_for| is_for.runs_on(machine))
    }

    /// The digest of the image's manifest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The image's manifest.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    /// The image's configuration.
    pub fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The layers as inputs of [`stack`](crate::stack).
    pub fn stack(&self) -> Vec<Input> {
        let input = |layer: &Layer| Input {
            path: layer.path.clone(),
            tag: layer.diff_id.hex().to_owned(),
        };
        self.layers.iter().map(input).collect()
    }

    /// The merged metadata image.
    pub fn fsmeta(&self) -> PathBuf {
        self.folder.join(FSMETA)
    }

    /// The bytes of the merged metadata and of every layer, shared with other images or not.
    pub fn bytes(&self) -> Result<u64> {
        let len = |path: &Path| Ok(fs::metadata(path).map_err(Error::io(path))?.len());
        self.layers
            .iter()
            .map(|layer| len(&layer.path))
            .sum::<Result<u64>>()
            .and_then(|layers| Ok(layers + len(&self.fsmeta())?))
    }

    /// The disk that stitches the merged metadata and the layers.
    pub fn disk(&self) -> PathBuf {
        self.folder.join(DISK)
    }
}

fn read_json<T>(path: &Path, parse: fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let record = parse(&bytes).map_err(|source| store::Error::Record {
        path: path.to_owned(),
        source,
    })?;
    Ok(record)
}
