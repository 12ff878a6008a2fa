//! Copying images byte for byte, so that digests stay the same.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde::Deserialize;

use crate::compression::LayerType;
use crate::digest::Hasher;
use crate::image::open_source;
use crate::json::Tolerant;
use crate::search::{INDEX_TYPES, MANIFEST_TYPES, MAX_INDEX_DEPTH, find_manifest, is_index, parse};
use crate::shape::{self, Shape};
use crate::source::{Root, Source, digest_of};
use crate::spec::{Descriptor, ImageIndex, ImageManifest};
use crate::target::Target;
use crate::{Digest, Document, Error, Options, Platform, Progress, Reference};

/// Manifests and indexes of one copy, and the bytes of them, which are held in memory.
const MAX_DOCUMENTS: usize = 4096;
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// How to copy an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyOptions {
    /// How to reach the source.
    pub source: Options,
    /// How to reach the target. Its events and progress are those of the copy.
    pub target: Options,
    /// The one platform to copy the image of. Default: everything that the name leads to,
    /// attestations included.
    pub platform: Option<Platform>,
    /// How many blobs are copied at once.
    pub jobs: NonZeroUsize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            source: Options::default(),
            target: Options::default(),
            platform: None,
            jobs: NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

impl CopyOptions {
    /// Sets [`source`](field@Self::source).
    #[must_use]
    pub fn source(mut self, source: Options) -> Self {
        self.source = source;
        self
    }

    /// Sets [`target`](field@Self::target).
    #[must_use]
    pub fn target(mut self, target: Options) -> Self {
        self.target = target;
        self
    }

    /// Sets [`platform`](field@Self::platform).
    #[must_use]
    pub fn platform(mut self, platform: impl Into<Option<Platform>>) -> Self {
        self.platform = platform.into();
        self
    }

    /// Sets [`jobs`](field@Self::jobs).
    #[must_use]
    pub fn jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = jobs;
        self
    }
}

/// Copies what `source` names to `target`, a registry, a layout or an archive, and returns the
/// digest of the manifest or index that the target leads to. Manifests, and so signatures and
/// digests, stay as they are. Blobs that are there are not copied; within a registry, they are
/// mounted. Foreign layers stay where their URLs say.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ocipull::{CopyOptions, copy};
///
/// copy(&"debian:12".parse()?, &"oci-archive:debian.tar:12".parse()?, &CopyOptions::default())?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of reading the source ([`Image::open`](crate::Image::open)) and of writing the [`Target`].
/// The target's name leads to what it led to before.
pub fn copy(
    source: &Reference,
    target: &Reference,
    options: &CopyOptions,
) -> Result<Digest, Error> {
    let plan = Planned::of(source, options)?;
    let to = Target::open(target, &options.target)?;
    let root = plan.write(source, &to, options)?;
    to.finish_as(&root.digest, &root.media_type, &root.bytes)?;
    Ok(root.digest)
}

/// As [`copy()`], to a target whose name is to lead to something else, such as an index that lists
/// the copy.
///
/// ```no_run
/// use ocipull::{CopyOptions, Target, copy_into};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = CopyOptions::default();
/// let target = Target::open(&"oci:images:12".parse()?, &options.target)?;
/// let copied = copy_into(&"debian:12".parse()?, &target, &options)?;
/// // The name may lead to something else, such as an index that lists the copy.
/// target.finish(&copied.media_type, &copied.bytes)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As for [`copy()`].
pub fn copy_into(
    source: &Reference,
    target: &Target,
    options: &CopyOptions,
) -> Result<Copied, Error> {
    let plan = Planned::of(source, options)?;
    let root = plan.write(source, target, options)?;
    let sink = target.sink();
    sink.manifest(&root.digest, &root.media_type, &root.bytes)?;
    Ok(root)
}

/// A source, and the part of it that is to be copied.
struct Planned {
    source: Arc<dyn Source>,
    documents: Vec<Copied>,
    blobs: Vec<Blob>,
}

impl Planned {
    fn of(source: &Reference, options: &CopyOptions) -> Result<Self, Error> {
        let from = open_source(source, &options.source)?;
        let mut plan = Plan {
            source: &*from,
            documents: Vec::new(),
            blobs: Vec::new(),
            seen: HashSet::new(),
            read: 0,
            bytes: 0,
        };
        match &options.platform {
            None => plan.root(from.root()?)?,
            Some(platform) => {
                let (bytes, digest) = find_manifest(&*from, platform, options.source.erofs)?;
                plan.document(bytes, None, digest, 0)?;
            }
        }
        let Plan {
            documents, blobs, ..
        } = plan;
        Ok(Self {
            source: from,
            documents,
            blobs,
        })
    }

    /// Writes everything except the document that the source's name leads to, and returns that
    /// document.
    fn write(
        self,
        source: &Reference,
        target: &Target,
        options: &CopyOptions,
    ) -> Result<Copied, Error> {
        let Self {
            source: from,
            mut documents,
            blobs,
        } = self;
        let mount = shared_repository(source, target.reference());
        push_blobs(&*from, target, &blobs, mount, options)?;
        let root = documents.pop().ok_or(Error::Failed)?;
        for document in &documents {
            let sink = target.sink();
            sink.manifest(&document.digest, &document.media_type, &document.bytes)?;
        }
        Ok(root)
    }
}

/// The repository that blobs may be mounted from: one of the same registry.
fn shared_repository<'a>(source: &'a Reference, target: &Reference) -> Option<&'a str> {
    match (source, target) {
        (
            Reference::Registry {
                host, repository, ..
            },
            Reference::Registry {
                host: to,
                repository: other,
                ..
            },
        ) if host == to && repository != other => Some(repository),
        _ => None,
    }
}

/// A manifest or an index that was copied.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Copied {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A blob that manifests name.
struct Blob {
    digest: Digest,
    size: u64,
}

/// The documents and blobs to copy, in an order in which each document comes after everything it
/// refers to.
struct Plan<'a> {
    source: &'a dyn Source,
    documents: Vec<Copied>,
    blobs: Vec<Blob>,
    /// Documents and blobs.
    seen: HashSet<Digest>,
    /// How many documents were read, and how many bytes they have.
    read: usize,
    bytes: u64,
}

/// The members of manifests, of images and of other artifacts, that name blobs.
#[derive(Deserialize)]
struct Blobs {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    blobs: Vec<Descriptor>,
}

impl Tolerant for Blobs {
    const SHAPE: Shape = shape::BLOBS;

    fn complete(document: &mut serde_json::Value) {
        ImageManifest::complete(document);
    }
}

#[derive(Deserialize)]
struct Entries {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Tolerant for Entries {
    const SHAPE: Shape = shape::INDEX;

    fn complete(document: &mut serde_json::Value) {
        ImageIndex::complete(document);
    }
}

impl Plan<'_> {
    fn root(&mut self, root: Root) -> Result<(), Error> {
        match root {
            Root::Document {
                bytes,
                media_type,
                digest,
            } => self.document(bytes, media_type, digest, 0),
            Root::Choice(entries) => {
                if let [only] = entries.as_slice() {
                    return self.entry(only, 0);
                }
                // The layout has an image for several platforms without an index, so the copy gets
                // an index.
                for entry in &entries {
                    self.entry(entry, 0)?;
                }
                let index = serde_json::json!({
                    "schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": entries,
                });
                let bytes = index.to_string().into_bytes();
                self.documents.push(Copied {
                    digest: Digest::sha256(&bytes),
                    media_type: INDEX_TYPES[0].to_owned(),
                    bytes,
                });
                Ok(())
            }
        }
    }

    fn entry(&mut self, descriptor: &Descriptor, depth: usize) -> Result<(), Error> {
        let digest = digest_of(descriptor)?;
        let media_type = descriptor.media_type().to_string();
        if !INDEX_TYPES.contains(&media_type.as_str())
            && !MANIFEST_TYPES.contains(&media_type.as_str())
        {
            // Indexes may list any blob.
            self.blob(descriptor)?;
            return Ok(());
        }
        if self.seen.contains(&digest) {
            return Ok(());
        }
        let bytes = self.source.manifest(descriptor, &digest)?;
        self.document(bytes, Some(media_type), digest, depth)
    }

    fn document(
        &mut self,
        bytes: Vec<u8>,
        media_type: Option<String>,
        digest: Digest,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_INDEX_DEPTH {
            return Err(Error::IndexDepth { digest });
        }
        self.read += 1;
        if self.read > MAX_DOCUMENTS {
            return Err(Error::TooManyIndexes {
                limit: MAX_DOCUMENTS,
            });
        }
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                document: Document::Index,
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        self.seen.insert(digest.clone());
        let index = is_index(&bytes, media_type.clone(), &digest)?;
        if index {
            let entries: Entries = parse(Document::Index, &digest, &bytes)?;
            for entry in &entries.manifests {
                self.entry(entry, depth + 1)?;
            }
        } else {
            let named: Blobs = parse(Document::Manifest, &digest, &bytes)?;
            for descriptor in named.config.iter().chain(&named.layers).chain(&named.blobs) {
                self.blob(descriptor)?;
            }
        }
        self.documents.push(Copied {
            media_type: stated_type(&bytes, media_type, index),
            digest,
            bytes,
        });
        Ok(())
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<(), Error> {
        let foreign = LayerType::of(descriptor.media_type()) == LayerType::Foreign;
        if foreign && !descriptor.urls().is_empty() {
            return Ok(());
        }
        let digest = digest_of(descriptor)?;
        if self.seen.insert(digest.clone()) {
            let size = descriptor.size();
            self.blobs.push(Blob { digest, size });
        }
        Ok(())
    }
}

/// The media type of a document: its own `mediaType`, or else that of its source.
fn stated_type(bytes: &[u8], said: Option<String>, index: bool) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let own = serde_json::from_slice::<Typed>(bytes);
    let known =
        |of: &String| INDEX_TYPES.contains(&of.as_str()) || MANIFEST_TYPES.contains(&of.as_str());
    let own = own.ok().and_then(|typed| typed.media_type).filter(known);
    let usual = if index { INDEX_TYPES } else { MANIFEST_TYPES };
    own.or(said.filter(known))
        .unwrap_or_else(|| usual[0].to_owned())
}

/// Copies the blobs, several at a time; the first error stops all.
fn push_blobs(
    source: &dyn Source,
    target: &Target,
    blobs: &[Blob],
    mount: Option<&str>,
    options: &CopyOptions,
) -> Result<(), Error> {
    let jobs = match target.is_ordered() {
        true => 1,
        false => options.jobs.get().min(blobs.len()),
    };
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failures = Mutex::new(BTreeMap::new());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(blob) = blobs.get(index) else { break };
            if let Err(error) = push_blob(source, target, blob, mount, options) {
                stop.store(true, Ordering::Relaxed);
                let mut failures = failures.lock().unwrap_or_else(|e| e.into_inner());
                failures.insert(index, error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(work);
        }
        work();
    });
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    match failures.into_values().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn push_blob(
    source: &dyn Source,
    target: &Target,
    blob: &Blob,
    mount: Option<&str>,
    options: &CopyOptions,
) -> Result<(), Error> {
    let Blob { digest, size } = blob;
    target.push_blob(digest, *size, mount, |offset| {
        let inner = match offset {
            0 => source.blob(digest, *size)?,
            _ => source.blob_from(digest, *size, offset)?,
        };
        Ok(Box::new(Verifying {
            inner,
            // A part cannot be verified. The target verifies the whole.
            hasher: (offset == 0).then(|| digest.hasher()),
            expected: digest.clone(),
            left: size.saturating_sub(offset),
            progress: options.target.progress.clone(),
        }))
    })?;
    Ok(())
}

/// Reads a blob, and withholds its last bytes if the digest does not match.
struct Verifying {
    inner: Box<dyn Read + Send>,
    hasher: Option<Hasher>,
    expected: Digest,
    left: u64,
    progress: Option<Progress>,
}

impl Read for Verifying {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        if let Some(progress) = &self.progress {
            progress.add(bytes as u64);
        }
        self.left = self.left.saturating_sub(bytes as u64);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..bytes]);
        }
        if self.left == 0
            && let Some(actual) = self.hasher.take().map(Hasher::finish)
            && actual != self.expected
        {
            return Err(Error::DigestMismatch {
                document: Document::Blob,
                expected: self.expected.clone(),
                actual,
            }
            .into());
        }
        Ok(bytes)
    }
}
