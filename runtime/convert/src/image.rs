//! Images in the store.

pub(crate) mod folder;

use std::fs;
use std::path::{Path, PathBuf};

use blockbox_store::{self as store, Store, atomic};
use ocipull::Digest;
use ocipull::spec::{ImageConfiguration, ImageManifest};

use crate::error::{Error, Result};
use crate::short_name;
use crate::stack::Input;

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const FSMETA: &str = "fsmeta.erofs";
pub(crate) const DISK: &str = "disk.vmdk";

/// Returns the name of the link to layer `index`, counted from the lowest, in an image's folder.
pub(crate) fn layer_link(index: usize) -> String {
    format!("{index:03}.erofs")
}

/// Returns the manifest digests of all images in a store, with a name or without.
///
/// # Errors
///
/// If the store cannot be read.
pub fn list(store: &Store) -> Result<Vec<Digest>> {
    let folder = store.images();
    let mut found = Vec::new();
    for name in blockbox_store::names(&folder)? {
        let name = name.to_string_lossy();
        let algorithm = match name.len() {
            128 => "sha512",
            _ => "sha256",
        };
        // Folders that are being made or removed have names that are not digests.
        found.extend(format!("{algorithm}:{name}").parse::<Digest>().ok());
    }
    found.sort();
    Ok(found)
}

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
    /// Opens the image with this manifest digest; `None` if the store does not have it.
    pub fn open(store: &Store, digest: &Digest) -> Result<Option<Self>> {
        let folder = store.image(digest);
        if !folder.is_dir() {
            return Ok(None);
        }
        let config = read_json(&folder.join(CONFIG), ocipull::parse_config)?;
        let layers = config
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

    /// Opens an image by its name, its manifest digest, or the beginning of that digest.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve), and if the image cannot be read.
    pub fn find(store: &Store, name: &str) -> Result<Self> {
        let digest = Self::resolve(store, name)?;
        Self::open(store, &digest)?.ok_or_else(|| Error::NoImage(name.to_owned()))
    }

    /// Returns the manifest digest of an image, by its name, its manifest digest, or at least six
    /// digits of the beginning of that digest. The image may be damaged, and may have other names.
    ///
    /// # Errors
    ///
    /// [`Error::NoImage`], [`Error::Ambiguous`].
    pub fn resolve(store: &Store, name: &str) -> Result<Digest> {
        let images = list(store)?;
        if let Some((_, target)) = Self::entry(store, name)? {
            let digest = target.manifest_digest.parse()?;
            if images.contains(&digest) {
                return Ok(digest);
            }
        }
        let prefix = name
            .split_once(':')
            .map_or(name, |(algorithm, digits)| match algorithm {
                "sha256" | "sha512" => digits,
                _ => name,
            });
        let mut matches = images
            .into_iter()
            .filter(|digest| prefix.len() >= 6 && digest.hex().starts_with(prefix));
        let digest = matches
            .next()
            .ok_or_else(|| Error::NoImage(name.to_owned()))?;
        match matches.next() {
            Some(_) => Err(Error::Ambiguous(name.to_owned())),
            None => Ok(digest),
        }
    }

    /// Returns the full name in the store that `name` stands for, and its entry; `None` if there is
    /// none.
    ///
    /// # Errors
    ///
    /// Those of reading the names.
    pub fn entry(store: &Store, name: &str) -> Result<Option<(String, store::Reference)>> {
        let mut table = store.references().read()?;
        let mut names = short_name::stored(name).into_iter();
        Ok(names.find_map(|name| table.remove_entry(&name)))
    }

    /// Opens the image that was last pulled as `reference`; `None` if the store has no such name.
    /// The source of a local reference may have changed since.
    pub fn named(store: &Store, reference: &ocipull::Reference) -> Result<Option<Self>> {
        let references = store.references().read()?;
        match references.get(&reference.canonical().to_string()) {
            Some(reference) => Self::open(store, &reference.manifest_digest.parse()?),
            None => Ok(None),
        }
    }

    /// Returns whether the image runs on the platform `machine`. An image without a platform does.
    pub fn runs_on(&self, machine: &ocipull::Platform) -> bool {
        ocipull::Platform::of_config(&self.config).is_none_or(|is_for| is_for.runs_on(machine))
    }

    /// Returns one of the image's JSON documents, including unknown fields.
    pub(crate) fn document(&self, name: &str) -> Result<serde_json::Value> {
        read_json(&self.folder.join(name), |bytes| {
            serde_json::from_slice(bytes)
        })
    }

    /// Returns the digest of the image's manifest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the image's manifest.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    /// Returns the image's configuration.
    pub fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    /// Returns the bytes of the image's configuration in `store`.
    pub(crate) fn config_bytes(&self, store: &Store) -> Result<Vec<u8>> {
        let path = store.image(&self.digest).join(CONFIG);
        atomic::read(&path).map_err(Error::io(&path))
    }

    /// Returns the layers, lowest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Returns the layers as inputs of [`stack`](crate::stack).
    pub fn stack(&self) -> Vec<Input> {
        let input = |layer: &Layer| Input {
            path: layer.path.clone(),
            tag: layer.diff_id.hex().to_owned(),
        };
        self.layers.iter().map(input).collect()
    }

    /// Returns the path of the merged metadata image.
    pub fn fsmeta(&self) -> PathBuf {
        self.folder.join(FSMETA)
    }

    /// Returns the total size in bytes of the merged metadata and all layers, including shared
    /// layers.
    pub fn bytes(&self) -> Result<u64> {
        let len = |path: &Path| Ok(fs::metadata(path).map_err(Error::io(path))?.len());
        self.layers
            .iter()
            .map(|layer| len(&layer.path))
            .sum::<Result<u64>>()
            .and_then(|layers| Ok(layers + len(&self.fsmeta())?))
    }

    /// Returns the path of the disk that combines the merged metadata and the layers.
    pub fn disk(&self) -> PathBuf {
        self.folder.join(DISK)
    }
}

fn read_json<T>(path: &Path, parse: fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
    let bytes = atomic::read(path).map_err(Error::io(path))?;
    let record = parse(&bytes).map_err(|source| store::Error::Record {
        path: path.to_owned(),
        source,
    })?;
    Ok(record)
}
