use std::sync::Arc;

use crate::chunk::Stream;
#[cfg(feature = "registry")]
use crate::chunk::Unshared;
use crate::compression::LayerType;
use crate::directory::Directory;
use crate::docker_archive::DockerArchive;
#[cfg(fuzzing)]
use crate::json;
use crate::kept::Claim;
use crate::layout::Layout;
use crate::pipeline::{Expected, Pipeline, Useless};
#[cfg(feature = "registry")]
use crate::registry::{ForeignReader, Registry};
use crate::search::{REFERENCE_TYPE, Search, Verified, annotation, parse, without_parameters};
use crate::source::{MAX_CONFIG, Source, digest_of, read_verified};
use crate::spec::{Descriptor, ImageConfiguration, ImageManifest};
use crate::spool::open_archive;
#[cfg(all(unix, feature = "registry"))]
use crate::tree::Archive;
use crate::tree::Folder;
use crate::unverified::Unverified;
use crate::{Digest, Document, Error, Layer, LayerReader, Options, Platform, Reference};

/// The types of configurations. The last ones are of old registries and of Docker before 1.10, and
/// Docker reads them, too (`distribution/pull_v2.go`, `ImageTypes`).
const CONFIG_TYPES: [&str; 6] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
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
    /// What an index says is about the image.
    about: Vec<Descriptor>,
    unverified: Unverified,
}

impl Image {
    /// Finds the image that `reference` names, for the platform in `options`, and reads its
    /// manifest and its configuration. Blocks; in asynchronous code, call it where blocking is
    /// allowed (`spawn_blocking`).
    ///
    /// ```no_run
    /// use ocipull::{Image, Options};
    ///
    /// let image = Image::open(&"debian:12".parse()?, &Options::default())?;
    /// println!("{} has {} layers", image.manifest_digest(), image.layers().len());
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Every [`Error`] except those about the contents of layers.
    pub fn open(reference: &Reference, options: &Options) -> Result<Self, Error> {
        let source = open_source(reference, options)?;
        let mut search = Search::new(&*source, &options.platform, options.erofs);
        let manifest = search.one()?;
        let about = search.about;
        let mut image = Self::of(source.clone(), manifest, options)?;
        image.about = about;
        let config = &image.config;
        if let Some(is_for) = Platform::of_config(&config.parsed)
            && !is_for.runs_on(&options.platform)
        {
            tracing::warn!(image = %reference, %is_for, wanted = %options.platform,
                "the image is for another platform");
        }
        Ok(image)
    }

    /// Opens the images for all platforms that `reference` leads to, in the order of its index,
    /// whatever platform is in `options`. Attestations are passed over, and so are images whose
    /// layers are EROFS images, unless there is nothing else.
    ///
    /// ```no_run
    /// use ocipull::{Image, Options};
    ///
    /// for image in Image::open_all(&"debian:12".parse()?, &Options::default())? {
    ///     println!("{} for {}", image.manifest_digest(), image.config().architecture());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_all(reference: &Reference, options: &Options) -> Result<Vec<Self>, Error> {
        let source = open_source(reference, options)?;
        let mut search = Search::new(&*source, &options.platform, options.erofs);
        search
            .all()?
            .into_iter()
            .map(|manifest| Self::of(source.clone(), manifest, options))
            .collect()
    }

    fn of(
        source: Arc<dyn Source>,
        manifest: Verified<ImageManifest>,
        options: &Options,
    ) -> Result<Self, Error> {
        let config = read_config(&*source, manifest.parsed.config())?;
        let allowed = (options.erofs, options.foreign_layers);
        let layers = layers(&manifest.parsed, &config.parsed, allowed)?;
        Ok(Self {
            source,
            options: options.clone(),
            manifest,
            config,
            layers,
            about: Vec::new(),
            unverified: Unverified::default(),
        })
    }

    /// Returns the digest of the image's manifest. If the reference names an index, this is the
    /// manifest for one platform.
    ///
    /// ```no_run
    /// use ocipull::{Image, Options};
    ///
    /// let image = Image::open(&"debian:12".parse()?, &Options::default())?;
    /// println!("debian@{}", image.manifest_digest());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn manifest_digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// Returns the manifest as it is stored. For an image of a `docker save` archive, which has
    /// none, it is generated.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest.bytes
    }

    /// Returns the manifest.
    ///
    /// ```no_run
    /// use ocipull::{Image, Options};
    ///
    /// let image = Image::open(&"debian:12".parse()?, &Options::default())?;
    /// println!("{} layers", image.manifest().layers().len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest.parsed
    }

    /// Returns the digest of the configuration, which Docker shows as the image ID.
    pub fn config_digest(&self) -> &Digest {
        &self.config.digest
    }

    /// Returns the bytes of the configuration as stored.
    pub fn config_bytes(&self) -> &[u8] {
        &self.config.bytes
    }

    /// Returns the configuration.
    ///
    /// ```no_run
    /// # let image = ocipull::Image::open(&"debian:12".parse()?, &ocipull::Options::default())?;
    /// if let Some(config) = image.config().config() {
    ///     println!("{:?} {:?}", config.entrypoint(), config.cmd());
    /// }
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    pub fn config(&self) -> &ImageConfiguration {
        &self.config.parsed
    }

    /// Returns the layers, lowest first.
    ///
    /// ```no_run
    /// use ocipull::{Image, Options};
    ///
    /// let image = Image::open(&"debian:12".parse()?, &Options::default())?;
    /// for layer in image.layers() {
    ///     println!("{} {}", layer.diff_id, layer.size);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Fetches what the index that the image was found in has about it of this kind: its manifest,
    /// verified by its digest. `None` where it has nothing, or the reference leads to no index.
    ///
    /// As BuildKit has it of attestations, such an entry has the image's digest in the annotation
    /// `vnd.docker.reference.digest` and the kind in `vnd.docker.reference.type`. Where there are
    /// several, the first counts.
    ///
    /// ```no_run
    /// # let image = ocipull::Image::open(&"debian:12".parse()?, &ocipull::Options::default())?;
    /// if let Some(attestations) = image.artifact("attestation-manifest")? {
    ///     println!("{} attestations", attestations.layers().len());
    /// }
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of fetching a manifest; [`Error::DigestMismatch`] where its subject is another image.
    pub fn artifact(&self, kind: &str) -> Result<Option<ImageManifest>, Error> {
        let of_kind = |entry: &&Descriptor| annotation(entry, REFERENCE_TYPE) == Some(kind);
        let Some(entry) = self.about.iter().find(of_kind) else {
            return Ok(None);
        };
        let digest = digest_of(entry)?;
        let bytes = self.source.manifest(entry, &digest)?;
        let manifest: ImageManifest = parse(Document::Manifest, &digest, &bytes)?;
        if let Some(subject) = manifest.subject()
            && subject.digest() != self.manifest_digest().as_str()
        {
            return Err(Error::DigestMismatch {
                document: Document::Manifest,
                expected: self.manifest_digest().clone(),
                actual: digest_of(subject)?,
            });
        }
        Ok(Some(manifest))
    }

    /// Has `read` read the layer `index`, counted from the lowest, and then verifies all of it,
    /// whether `read` came to the end or not. Where this returns `Ok`, the layer is the one that
    /// the manifest and the configuration name.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let image = ocipull::Image::open(&"debian".parse()?, &ocipull::Options::default())?;
    /// for index in 0..image.layers().len() {
    ///     let bytes = image.read_layer(index, |tar| std::io::copy(tar, &mut std::io::sink()))?;
    ///     println!("{bytes} bytes");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`layer`](Self::layer) and [`LayerReader::finish`], and what `read` returns, after
    /// which the rest of the layer is neither fetched nor verified.
    pub fn read_layer<T, E: From<Error>>(
        &self,
        index: usize,
        read: impl FnOnce(&mut LayerReader) -> Result<T, E>,
    ) -> Result<T, E> {
        self.layer(index)?.read_all(read)
    }

    /// Starts to fetch the layer `index`, counted from the lowest. The caller reads to the end or
    /// calls [`LayerReader::finish`]; [`read_layer`](Self::read_layer) does so by itself.
    ///
    /// ```no_run
    /// use ocipull::{Image, Options};
    ///
    /// let image = Image::open(&"debian:12".parse()?, &Options::default())?;
    /// let mut layer = image.layer(0)?;
    /// std::io::copy(&mut layer, &mut std::fs::File::create("layer.tar")?)?;
    /// layer.finish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoLayer`]; [`Error::Unverified`] if a reader of another layer was dropped before
    /// its end; errors of opening a file. Later errors are reported by reading the layer.
    pub fn layer(&self, index: usize) -> Result<LayerReader, Error> {
        self.unopened(index)?.open()
    }

    /// Returns an error if a layer that was begun was not verified, because its reader was dropped
    /// before its end. [`read_layer`](Self::read_layer) leaves no such layer; call this after the
    /// last one if you use [`layer`](Self::layer) or `stream_layer`.
    ///
    /// ```no_run
    /// use ocipull::{Image, Options};
    ///
    /// let image = Image::open(&"debian:12".parse()?, &Options::default())?;
    /// drop(image.layer(0)?);
    /// assert!(image.verified().is_err());
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unverified`].
    pub fn verified(&self) -> Result<(), Error> {
        self.unverified.check(None)
    }

    /// The layer `index`, ready to be opened on another thread.
    pub(crate) fn unopened(&self, index: usize) -> Result<Unopened, Error> {
        let layers = self.layers.len();
        let layer = self.layers.get(index);
        let layer = layer.ok_or(Error::NoLayer { index, layers })?;
        self.unverified.check(Some(&layer.digest))?;
        Ok(Unopened {
            source: self.source.clone(),
            options: self.options.clone(),
            layer: layer.clone(),
            unverified: self.unverified.clone(),
        })
    }
}

/// A layer whose fetch has not started.
pub(crate) struct Unopened {
    source: Arc<dyn Source>,
    layer: Layer,
    options: Options,
    unverified: Unverified,
}

impl Unopened {
    /// The layer's digest, and where it is noted if the layer is not verified.
    pub(crate) fn unverified(&self) -> (Digest, Unverified) {
        (self.layer.digest.clone(), self.unverified.clone())
    }

    /// Starts to fetch the layer.
    pub(crate) fn open(self) -> Result<LayerReader, Error> {
        let (limit, progress) = (
            self.options.limit(self.layer.size),
            self.options.progress.clone(),
        );
        let kind = LayerType::of(&self.layer.media_type);
        let compression = match kind {
            LayerType::Tar(compression) | LayerType::Erofs(compression) => Some(compression),
            _ => None,
        };
        let (source, claim) = self.stored(kind)?;
        let unverified = self.unverified();
        let layer = self.layer;
        let useless = Useless::new({
            let (source, digest) = (self.source, layer.digest.clone());
            move || source.forget(&digest)
        });
        let expected = Expected {
            blob: Some((layer.digest, layer.size)),
            diff_id: Some(layer.diff_id),
            compression,
            limit,
        };
        let pipeline = Pipeline::start(source, expected, progress, useless)?;
        Ok(LayerReader::new(pipeline, claim, unverified))
    }

    /// The layer as it is stored, and the right to the file in which its bytes are kept.
    fn stored(&self, kind: LayerType) -> Result<(Box<dyn Stream>, Option<Claim>), Error> {
        #[cfg(feature = "registry")]
        if kind == LayerType::Foreign {
            let (source, layer) = (self.source.clone(), self.layer.clone());
            let reader = ForeignReader::new(source, layer, self.options.clone());
            return Ok((Box::new(Unshared(reader)), None));
        }
        let _ = kind;
        self.source.layer(&self.layer.digest, self.layer.size)
    }
}

/// Opens the place that `reference` names.
pub(crate) fn open_source(
    reference: &Reference,
    options: &Options,
) -> Result<Arc<dyn Source>, Error> {
    let source: Arc<dyn Source> = match reference {
        #[cfg(not(feature = "registry"))]
        Reference::Registry { host, .. } => {
            return Err(Error::NoRegistryAccess { host: host.clone() });
        }
        #[cfg(feature = "registry")]
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
            let archive = open_archive(file, options)?;
            Arc::new(Layout::open(Arc::new(archive), tag.clone())?)
        }
        Reference::DockerArchive { file, tag } => {
            let archive = open_archive(file, options)?;
            Arc::new(DockerArchive::open(Arc::new(archive), tag.as_deref())?)
        }
        Reference::Directory { dir } => Arc::new(Directory::new(Arc::new(Folder(dir.clone())))),
        #[cfg(not(all(unix, feature = "registry")))]
        Reference::DockerDaemon { .. } => {
            let host = reference.to_string();
            return Err(Error::NoRegistryAccess { host });
        }
        #[cfg(all(unix, feature = "registry"))]
        Reference::DockerDaemon { name } => {
            let saved = crate::docker_daemon::export(name, options)?;
            let archive = Archive::scan(saved, std::path::Path::new(&reference.to_string()))?;
            Arc::new(DockerArchive::open(Arc::new(archive), None)?)
        }
    };
    Ok(source)
}

fn read_config(
    source: &dyn Source,
    descriptor: &Descriptor,
) -> Result<Verified<ImageConfiguration>, Error> {
    let digest = digest_of(descriptor)?;
    let media_type = descriptor.media_type().to_owned();
    if !CONFIG_TYPES.contains(&without_parameters(&media_type)) {
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

/// The annotation with the part that a layer has in an image, of the draft specification of EROFS
/// images, and the one role of layers that are put above each other.
const ROLE: &str = "org.erofs.role";
const OVERLAY_LOWER: &str = "overlay-lower";

fn layers(
    manifest: &ImageManifest,
    config: &ImageConfiguration,
    (erofs, foreign): (bool, bool),
) -> Result<Vec<Layer>, Error> {
    let diff_ids = config.diff_ids();
    let mut layers = Vec::with_capacity(manifest.layers().len());
    for descriptor in manifest.layers() {
        let digest = digest_of(descriptor)?;
        let media_type = descriptor.media_type().to_owned();
        let mut urls = Vec::new();
        if let Some(role) = annotation(descriptor, ROLE)
            && role != OVERLAY_LOWER
        {
            let role = role.to_owned();
            return Err(Error::LayerRole { digest, role });
        }
        match LayerType::of(&media_type) {
            LayerType::Tar(_) => {}
            LayerType::Foreign if foreign => urls = descriptor.urls().to_vec(),
            LayerType::Erofs(_) if erofs => {}
            LayerType::Foreign => return Err(Error::ForeignLayer { digest, media_type }),
            LayerType::Erofs(_) | LayerType::Unknown => {
                return Err(Error::MediaType {
                    document: Document::Layer,
                    digest,
                    media_type,
                });
            }
        }
        layers.push((digest, descriptor.size(), media_type, urls));
    }
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount {
            layers: layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let layers = layers.into_iter().zip(diff_ids);
    layers
        .map(|((digest, size, media_type, urls), diff_id)| {
            Ok(Layer {
                digest,
                size,
                media_type,
                diff_id: diff_id.parse()?,
                urls,
            })
        })
        .collect()
}

#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let digest = Digest::sha256(bytes);
    let _ = crate::search::is_index(bytes, None, &digest);
    let manifest = json::parse_manifest(bytes);
    if let (Ok(manifest), Ok(config)) = (&manifest, json::parse_config(bytes)) {
        let _ = layers(manifest, &config, (true, true));
    }
    if let Ok(index) = json::parse::<crate::spec::ImageIndex>(bytes) {
        for erofs in [false, true] {
            let _ = crate::select::for_platform(&index.manifests, &Platform::host(), erofs);
        }
    }
}
