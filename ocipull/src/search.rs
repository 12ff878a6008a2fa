//! The search of a source for an image's manifest: through its indexes, to the entry for one
//! platform.

use serde::Deserialize;

use crate::json::{self, Tolerant};
use crate::shape::{self, Shape};
use crate::source::{Root, Source, digest_of};
use crate::spec::{Descriptor, ImageIndex, ImageManifest};
use crate::{Digest, Document, Error, Platform, select};

/// Which image an entry of an index is about, and in which way, as BuildKit says it.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Levels of indexes inside indexes: buildx uses one, and no known tool more than two.
pub(crate) const MAX_INDEX_DEPTH: usize = 4;

/// Manifests and indexes that are fetched for one image.
const MAX_DOCUMENTS: usize = 64;

pub(crate) const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

pub(crate) const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A document, with the digest that its bytes have.
#[derive(Debug)]
pub(crate) struct Verified<T> {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) parsed: T,
}

/// The manifest of the image for one platform.
pub(crate) fn find_manifest(
    source: &dyn Source,
    wanted: &Platform,
    erofs: bool,
) -> Result<(Vec<u8>, Digest), Error> {
    let found = Search::new(source, wanted, erofs).one()?;
    Ok((found.bytes, found.digest))
}

/// The members that distinguish manifests and indexes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Tolerant for Kind {
    const SHAPE: Shape = shape::KIND;

    fn complete(_: &mut serde_json::Value) {}
}

/// A search in one source.
pub(crate) struct Search<'a> {
    source: &'a dyn Source,
    wanted: &'a Platform,
    /// Whether EROFS-native images are wanted.
    erofs: bool,
    /// The number of manifests and indexes that may still be fetched.
    left: usize,
    /// What the index that names the image has about it.
    pub(crate) about: Vec<Descriptor>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(source: &'a dyn Source, wanted: &'a Platform, erofs: bool) -> Self {
        Self {
            source,
            wanted,
            erofs,
            left: MAX_DOCUMENTS,
            about: Vec::new(),
        }
    }

    /// The manifest of the image for the wanted platform.
    pub(crate) fn one(&mut self) -> Result<Verified<ImageManifest>, Error> {
        self.resolve(self.source.root()?, 0)
    }

    /// The manifests of all images.
    pub(crate) fn all(&mut self) -> Result<Vec<Verified<ImageManifest>>, Error> {
        let mut found = Vec::new();
        self.collect(self.source.root()?, 0, &mut found)?;
        Ok(found)
    }

    /// The manifest that `root` is or leads to, `depth` indexes down.
    fn resolve(&mut self, root: Root, depth: usize) -> Result<Verified<ImageManifest>, Error> {
        let (bytes, media_type, digest) = match root {
            Root::Choice(entries) => return self.choose(&entries, depth),
            Root::Document {
                bytes,
                media_type,
                digest,
            } => (bytes, media_type, digest),
        };
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
        self.choose(&index.manifests, depth)
    }

    /// Follows the entry for the wanted platform, or else the indexes that do not say what they are
    /// for.
    fn choose(
        &mut self,
        entries: &[Descriptor],
        depth: usize,
    ) -> Result<Verified<ImageManifest>, Error> {
        let mut available = match select::for_platform(entries, self.wanted, self.erofs) {
            Ok(chosen) => {
                let found = self.follow(chosen, depth)?;
                let of_image = Some(found.digest.as_str());
                let about = entries
                    .iter()
                    .filter(|entry| annotation(entry, REFERENCE_DIGEST) == of_image);
                self.about.extend(about.cloned());
                return Ok(found);
            }
            Err(Error::NoPlatform { available, .. }) => available,
            Err(other) => return Err(other),
        };
        let nested = entries.iter().filter(|entry| {
            entry.platform().is_none() && INDEX_TYPES.contains(&entry.media_type())
        });
        for index in nested {
            match self.follow(index, depth) {
                Err(Error::NoPlatform {
                    available: more, ..
                }) => available.extend(more),
                found => return found,
            }
        }
        Err(Error::NoPlatform {
            wanted: self.wanted.clone(),
            available,
        })
    }

    /// The manifests of all images that `root` is or leads to, `depth` indexes down.
    fn collect(
        &mut self,
        root: Root,
        depth: usize,
        found: &mut Vec<Verified<ImageManifest>>,
    ) -> Result<(), Error> {
        let entries = match root {
            Root::Choice(entries) => entries,
            Root::Document {
                bytes,
                media_type,
                digest,
            } => {
                if !is_index(&bytes, media_type, &digest)? {
                    if found.iter().all(|known| known.digest != digest) {
                        let parsed = parse(Document::Manifest, &digest, &bytes)?;
                        found.push(Verified {
                            digest,
                            bytes,
                            parsed,
                        });
                    }
                    return Ok(());
                }
                if depth >= MAX_INDEX_DEPTH {
                    return Err(Error::IndexDepth { digest });
                }
                let index: ImageIndex = parse(Document::Index, &digest, &bytes)?;
                index.manifests
            }
        };
        let images: Vec<_> = entries
            .iter()
            .filter(|entry| !select::is_attestation(entry))
            .collect();
        let tars_only = images.iter().any(|entry| !select::is_erofs(entry));
        for entry in images {
            if tars_only && select::is_erofs(entry) {
                continue;
            }
            let document = self.fetch(entry)?;
            self.collect(document, depth + 1, found)?;
        }
        Ok(())
    }

    fn follow(
        &mut self,
        entry: &Descriptor,
        depth: usize,
    ) -> Result<Verified<ImageManifest>, Error> {
        let document = self.fetch(entry)?;
        self.resolve(document, depth + 1)
    }

    fn fetch(&mut self, entry: &Descriptor) -> Result<Root, Error> {
        self.left = self.left.checked_sub(1).ok_or(Error::TooManyIndexes {
            limit: MAX_DOCUMENTS,
        })?;
        let digest = digest_of(entry)?;
        Ok(Root::Document {
            bytes: self.source.manifest(entry, &digest)?,
            media_type: Some(entry.media_type().to_owned()),
            digest,
        })
    }
}

/// The annotation `key` of an entry.
pub(crate) fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor.annotations().get(key).map(String::as_str)
}

/// Whether a document is an index. A document that is neither an index nor a manifest is an error.
pub(crate) fn is_index(
    bytes: &[u8],
    media_type: Option<String>,
    digest: &Digest,
) -> Result<bool, Error> {
    let kind: Kind = parse(Document::Manifest, digest, bytes)?;
    let unsupported = |media_type| {
        let (document, digest) = (Document::Manifest, digest.clone());
        Err(Error::MediaType {
            document,
            digest,
            media_type,
        })
    };
    // The document's own type decides, because the digest covers it.
    let says = |wanted: &str| kind.media_type.as_deref() == Some(wanted);
    match kind.schema_version {
        // Docker's first format has a version 1; a document that says its type may leave the
        // version out.
        Some(2) => {}
        None if INDEX_TYPES.iter().chain(&MANIFEST_TYPES).any(|of| says(of)) => {}
        version => return unsupported(format!("schema version {}", version.unwrap_or_default())),
    }
    // Readers would disagree on what it is (CVE-2021-41190).
    if kind.manifests.is_some() && (kind.config.is_some() || kind.layers.is_some()) {
        return unsupported("of an index and of a manifest at once".to_owned());
    }
    match kind.media_type.filter(|of| !of.is_empty()).or(media_type) {
        Some(media_type) if INDEX_TYPES.contains(&media_type.as_str()) => Ok(true),
        Some(media_type) if MANIFEST_TYPES.contains(&media_type.as_str()) => Ok(false),
        // Registries that do not know the type send one of these.
        Some(media_type)
            if !["application/json", "application/octet-stream", "text/plain"]
                .contains(&without_parameters(&media_type)) =>
        {
            unsupported(media_type)
        }
        _ => Ok(kind.manifests.is_some()),
    }
}

/// `text/plain` of `text/plain; charset=utf-8`.
pub(crate) fn without_parameters(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// Parses the document `digest` as tolerantly as the tools of the field do.
pub(crate) fn parse<T: Tolerant>(
    document: Document,
    digest: &Digest,
    bytes: &[u8],
) -> Result<T, Error> {
    json::parse(bytes).map_err(|source| Error::Json {
        document,
        digest: digest.clone(),
        source,
    })
}
