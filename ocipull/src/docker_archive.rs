//! Archives of `docker save`: `manifest.json`, configurations and layers, by path and not by
//! digest.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::compression::Compression;
use crate::digest::Hasher;
use crate::json::{self, Tolerant};
use crate::names::{self, Name};
use crate::shape::Shape;
use crate::source::{MAX_CONFIG, MAX_MANIFEST, Root, Source};
use crate::spec::{Descriptor, ImageConfiguration};
use crate::tree::{SharedTree, read_json, read_needed};
use crate::{Digest, Document, Error, SourceProblem};

const KIND: &str = "a docker archive";

/// One image in `manifest.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Tolerant for Option<Vec<Saved>> {
    const SHAPE: Shape = Shape::List(&Shape::Object(&[
        ("Config", Shape::Any),
        ("RepoTags", Shape::Any),
        ("Layers", Shape::Any),
    ]));

    fn complete(_: &mut serde_json::Value) {}
}

/// One image of an archive, with a generated OCI manifest, since the archive has none.
#[derive(Debug)]
pub(crate) struct DockerArchive {
    tree: SharedTree,
    manifest: Vec<u8>,
    config: Vec<u8>,
    config_digest: Digest,
    /// The path of each layer.
    layers: HashMap<Digest, String>,
}

impl DockerArchive {
    pub(crate) fn open(tree: SharedTree, tag: Option<&str>) -> Result<Self, Error> {
        let images: Option<Vec<Saved>> = read_json(&*tree, KIND, "manifest.json", MAX_MANIFEST)?;
        let saved = choose(images.unwrap_or_default(), tag, tree.path())?;
        let config = read_needed(&*tree, KIND, &saved.config, Document::Config, MAX_CONFIG)?;
        let config_digest = Digest::sha256(&config);
        // Docker names the configuration by its digest, the only digest in these archives that can
        // be checked.
        if let Some(expected) = named_digest(&saved.config)
            && expected != config_digest
        {
            let actual = config_digest;
            return Err(Error::DigestMismatch {
                document: Document::Config,
                expected,
                actual,
            });
        }
        let parsed: ImageConfiguration = json::parse(&config).map_err(|source| Error::Json {
            document: Document::Config,
            digest: config_digest.clone(),
            source,
        })?;
        let paths = saved.layers.unwrap_or_default();
        let diff_ids = parsed.diff_ids();
        if paths.len() != diff_ids.len() {
            return Err(Error::LayerCount {
                layers: paths.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let mut layers = HashMap::new();
        let mut descriptors = Vec::with_capacity(paths.len());
        for (path, diff_id) in paths.into_iter().zip(diff_ids) {
            let stored = Stored::examine(&tree, &path, diff_id.parse()?)?;
            descriptors.push(serde_json::json!({
                "mediaType": stored.media_type,
                "digest": stored.digest.as_str(),
                "size": stored.size,
            }));
            layers.insert(stored.digest, path);
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest.as_str(),
                "size": config.len(),
            },
            "layers": descriptors,
        });
        let manifest = manifest.to_string().into_bytes();
        Ok(Self {
            tree,
            manifest,
            config,
            config_digest,
            layers,
        })
    }
}

impl Source for DockerArchive {
    fn root(&self) -> Result<Root, Error> {
        Ok(Root::Document {
            digest: Digest::sha256(&self.manifest),
            bytes: self.manifest.clone(),
            media_type: None,
        })
    }

    fn manifest(&self, _: &Descriptor, digest: &Digest) -> Result<Vec<u8>, Error> {
        // The only manifest is an image's, so there is never one to follow.
        Err(Error::IndexDepth {
            digest: digest.clone(),
        })
    }

    fn blob(&self, digest: &Digest, _size: u64) -> Result<Box<dyn Read + Send>, Error> {
        if *digest == self.config_digest {
            return Ok(Box::new(std::io::Cursor::new(self.config.clone())));
        }
        let path = self
            .layers
            .get(digest)
            .map_or(digest.as_str(), String::as_str);
        Ok(self.tree.open(path)?.0)
    }
}

/// A layer as it lies in the archive.
struct Stored {
    media_type: &'static str,
    digest: Digest,
    size: u64,
}

impl Stored {
    /// Docker stores layers uncompressed, so that the diff ID is the digest; other tools compress
    /// them, and then the digest is not written anywhere.
    fn examine(tree: &SharedTree, path: &str, diff_id: Digest) -> Result<Self, Error> {
        let (reader, size) = tree.open(path)?;
        let failed = |source| Error::Io {
            path: tree.path().to_owned(),
            source,
        };
        let mut reader = std::io::BufReader::new(reader);
        let magic = std::io::BufRead::fill_buf(&mut reader).map_err(failed)?;
        let media_type = match Compression::sniff(magic) {
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Compression::Xz => "application/vnd.oci.image.layer.v1.tar+xz",
            Compression::Bzip2 => "application/vnd.oci.image.layer.v1.tar+bzip2",
            Compression::None => {
                let media_type = "application/vnd.oci.image.layer.v1.tar";
                return Ok(Self {
                    media_type,
                    digest: diff_id,
                    size,
                });
            }
        };
        let mut hasher = Hasher::sha256();
        let mut buffer = vec![0; 1 << 17];
        loop {
            match reader.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        Ok(Self {
            media_type,
            digest: hasher.finish(),
            size,
        })
    }
}

/// The digest in a configuration's path: `HEX.json`, or `blobs/sha256/HEX` since Docker 25.
fn named_digest(path: &str) -> Option<Digest> {
    let file = path.rsplit('/').next()?;
    format!("sha256:{}", file.strip_suffix(".json").unwrap_or(file))
        .parse()
        .ok()
}

/// The image that `tag` names.
fn choose(mut images: Vec<Saved>, tag: Option<&str>, place: &Path) -> Result<Saved, Error> {
    let names: Vec<Vec<String>> = images
        .iter_mut()
        .map(|image| image.repo_tags.take().unwrap_or_default())
        .collect();
    let found: Vec<usize> = match tag.map(Name::of) {
        None => (0..images.len()).collect(),
        Some(Name::Position(position)) => Some(position).into_iter().collect(),
        Some(Name::Text(name)) => names::find(&names, name),
        // These archives have no manifests, so names cannot be their digests.
        Some(Name::Digest(_)) => Vec::new(),
    };
    let invalid = |problem| Error::InvalidSource {
        path: place.to_owned(),
        problem,
    };
    match (found.as_slice(), tag) {
        (&[position], _) if position < images.len() => Ok(images.swap_remove(position)),
        _ if images.is_empty() => Err(invalid(SourceProblem::NoImages)),
        (&[_, _, ..], Some(tag)) => Err(Error::AmbiguousName {
            place: place.display().to_string(),
            name: tag.to_owned(),
            available: found
                .iter()
                .map(|position| format!("@{position}"))
                .collect(),
        }),
        _ => Err(Error::NoSuchImage {
            place: place.display().to_string(),
            tag: tag.map(str::to_owned),
            available: names
                .iter()
                .enumerate()
                .flat_map(|(position, names)| names::shown(position, names))
                .collect(),
        }),
    }
}
