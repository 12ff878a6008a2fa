use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::compression::LayerType;
use crate::docker_archive::DockerArchive;
use crate::layout::Layout;
use crate::pipeline::{Expected, Pipeline};
use crate::registry::Registry;
use crate::source::{MAX_CONFIG, Root, Source, digest_of, read_verified};
use crate::tree::{Archive, Folder};
use crate::{Digest, Document, Error, Layer, LayerReader, Options, Reference, platform};

/// Indexes inside indexes: buildx nests one, and nobody more than two.
const MAX_INDEX_DEPTH: usize = 4;

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// An image: its manifest and configuration, verified, and a way to read its layers.
///
/// Layers can be read by several threads at once.
#[derive(Debug)]
pub struct Image {
    source: Arc<dyn Source>,
    options: Options,
    manifest: Verified<ImageManifest>,
    config: Verified<ImageConfiguration>,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Verified<T> {
    digest: Digest,
    bytes: Vec<u8>,
    parsed: T,
}

impl Image {
    /// Finds the image that `reference` names, for the platform that `options` say, and gets its manifest and its
    /// configuration. Blocks; in asynchronous code, call it where blocking is allowed (`spawn_blocking`).
    ///
    /// # Errors
    ///
    /// Every [`Error`] but those of layers' contents.
    pub fn open(reference: &Reference, options: &Options) -> Result<Self, Error> {
        let source: Arc<dyn Source> = match reference {
            Reference::Registry {
                host,
                repository,
                tag,
                digest,
            } => {
                let name = (repository.as_str(), tag.as_deref(), digest.as_ref());
                Arc::new(Registry::new(host, name, options)?)
            }
            Reference::OciLayout { dir, tag } => {
                Arc::new(Layout::open(Arc::new(Folder(dir.clone())), tag.clone())?)
            }
            Reference::OciArchive { file, tag } => {
                Arc::new(Layout::open(Arc::new(Archive::scan(file)?), tag.clone())?)
            }
            Reference::DockerArchive { file, tag } => Arc::new(DockerArchive::open(
                Arc::new(Archive::scan(file)?),
                tag.as_deref(),
            )?),
        };
        let manifest = find_manifest(&*source, options)?;
        let config = read_config(&*source, manifest.parsed.config())?;
        let layers = layers(&manifest.parsed, &config.parsed)?;
        let runs_on = platform::Platform {
            os: config.parsed.os().to_string(),
            architecture: config.parsed.architecture().to_string(),
            variant: None,
        };
        if (&runs_on.os, &runs_on.architecture)
            != (&options.platform.os, &options.platform.architecture)
        {
            tracing::warn!(image = %reference, is_for = %runs_on, wanted = %options.platform,
                "the image is for another platform");
        }
        Ok(Self {
            source,
            options: options.clone(),
            manifest,
            config,
            layers,
        })
    }

    /// The digest of the manifest: of the image for one platform, also where the reference names an index.
    pub fn manifest_digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// The manifest as it is stored. For an image of a `docker save` archive, which has none, it is made up.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest.bytes
    }

    /// The manifest.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest.parsed
    }

    /// The digest of the configuration, which Docker shows as the image's ID.
    pub fn config_digest(&self) -> &Digest {
        &self.config.digest
    }

    /// The configuration as it is stored.
    pub fn config_bytes(&self) -> &[u8] {
        &self.config.bytes
    }

    /// The configuration.
    pub fn config(&self) -> &ImageConfiguration {
        &self.config.parsed
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Starts to fetch the layer `index`, counted from the lowest.
    ///
    /// # Errors
    ///
    /// [`Error::NoLayer`], and those of opening a file; what goes wrong later, reading the layer says.
    pub fn layer(&self, index: usize) -> Result<LayerReader, Error> {
        let layers = self.layers.len();
        let layer = self
            .layers
            .get(index)
            .ok_or(Error::NoLayer { index, layers })?;
        let compression = match LayerType::of(&layer.media_type) {
            LayerType::Tar(compression) => Some(compression),
            _ => None,
        };
        let expected = Expected {
            blob: Some((layer.digest.clone(), layer.size)),
            diff_id: Some(layer.diff_id.clone()),
            compression,
            limit: self.options.limit(layer.size),
        };
        let source = self.source.blob(&layer.digest, layer.size)?;
        Pipeline::start(source, expected, self.options.progress.clone()).map(LayerReader)
    }
}

/// What manifests and indexes say of themselves.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

fn find_manifest(source: &dyn Source, options: &Options) -> Result<Verified<ImageManifest>, Error> {
    let mut root = source.root()?;
    let mut depth = 0;
    loop {
        let choice = match root {
            Root::Choice(choice) => choice,
            Root::Document {
                bytes,
                media_type,
                digest,
            } => {
                if !is_index(&bytes, media_type, &digest)? {
                    let parsed = parse(Document::Manifest, &digest, &bytes)?;
                    return Ok(Verified {
                        digest,
                        bytes,
                        parsed,
                    });
                }
                if depth >= MAX_INDEX_DEPTH {
                    return Err(Error::IndexDepth { digest });
                }
                let index: ImageIndex = parse(Document::Index, &digest, &bytes)?;
                index.manifests().clone()
            }
        };
        let chosen = platform::select(&choice, &options.platform)?;
        let digest = digest_of(chosen)?;
        let bytes = source.manifest(chosen, &digest)?;
        let media_type = Some(chosen.media_type().to_string());
        root = Root::Document {
            bytes,
            media_type,
            digest,
        };
        depth += 1;
    }
}

/// Whether a document is an index; an error where it is no manifest either.
fn is_index(bytes: &[u8], media_type: Option<String>, digest: &Digest) -> Result<bool, Error> {
    let kind: Kind = parse(Document::Manifest, digest, bytes)?;
    let unsupported = |media_type| {
        let (document, digest) = (Document::Manifest, digest.clone());
        Err(Error::MediaType {
            document,
            digest,
            media_type,
        })
    };
    // What the document says of itself decides: it is what the digest vouches for.
    match kind.media_type.or(media_type) {
        _ if kind.schema_version != Some(2) => unsupported(format!(
            "schema version {}",
            kind.schema_version.unwrap_or_default()
        )),
        Some(media_type) if INDEX_TYPES.contains(&media_type.as_str()) => Ok(true),
        Some(media_type) if MANIFEST_TYPES.contains(&media_type.as_str()) => Ok(false),
        // Registries without an idea of the type say one of these.
        Some(media_type)
            if !["application/json", "application/octet-stream", "text/plain"]
                .contains(&media_type.split(';').next().unwrap_or_default()) =>
        {
            unsupported(media_type)
        }
        _ => Ok(kind.manifests.is_some()),
    }
}

fn parse<T: DeserializeOwned>(
    document: Document,
    digest: &Digest,
    bytes: &[u8],
) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        document,
        digest: digest.clone(),
        source,
    })
}

fn read_config(
    source: &dyn Source,
    descriptor: &Descriptor,
) -> Result<Verified<ImageConfiguration>, Error> {
    let digest = digest_of(descriptor)?;
    let media_type = descriptor.media_type().to_string();
    if !CONFIG_TYPES.contains(&media_type.as_str()) {
        return Err(Error::MediaType {
            document: Document::Config,
            digest,
            media_type,
        });
    }
    let blob = source.blob(&digest, descriptor.size())?;
    let bytes = read_verified(
        blob,
        Document::Config,
        &digest,
        descriptor.size(),
        MAX_CONFIG,
    )?;
    let parsed = parse(Document::Config, &digest, &bytes)?;
    Ok(Verified {
        digest,
        bytes,
        parsed,
    })
}

fn layers(manifest: &ImageManifest, config: &ImageConfiguration) -> Result<Vec<Layer>, Error> {
    let diff_ids = config.rootfs().diff_ids();
    let mut layers = Vec::with_capacity(manifest.layers().len());
    for descriptor in manifest.layers() {
        let digest = digest_of(descriptor)?;
        let media_type = descriptor.media_type().to_string();
        match LayerType::of(&media_type) {
            LayerType::Tar(_) => {}
            LayerType::Foreign => return Err(Error::ForeignLayer { digest, media_type }),
            LayerType::Unknown => {
                return Err(Error::MediaType {
                    document: Document::Layer,
                    digest,
                    media_type,
                });
            }
        }
        layers.push((digest, descriptor.size(), media_type));
    }
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount {
            layers: layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let layers = layers.into_iter().zip(diff_ids);
    layers
        .map(|((digest, size, media_type), diff_id)| {
            Ok(Layer {
                digest,
                size,
                media_type,
                diff_id: diff_id.parse()?,
            })
        })
        .collect()
}
