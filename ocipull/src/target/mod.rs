//! Where images are written: registries, layouts and archives.

mod archive;
mod layout;

use std::fmt;
use std::io::{self, Read};

use crate::{Digest, Error, Options, Reference};
use archive::ArchiveSink;
pub use archive::ArchiveWriter;
use layout::LayoutSink;

/// How a blob came to be where it was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was uploaded or written.
    Uploaded,
}

/// Gives the bytes of a blob from an offset on.
pub(crate) type Open<'a> = dyn FnMut(u64) -> io::Result<Box<dyn Read>> + 'a;

/// The interface of registries, layouts and archives that are written to.
pub(crate) trait Sink: fmt::Debug + Send + Sync {
    /// Puts the blob `digest` of `size` bytes there, unless it is there. `from` is another repository of the same registry.
    fn blob(
        &self,
        digest: &Digest,
        size: u64,
        from: Option<&str>,
        open: &mut Open<'_>,
    ) -> Result<Pushed, Error>;

    /// Puts a manifest or an index there, without a name.
    fn manifest(&self, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Puts the document there that the target's name is to lead to.
    fn root(&self, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Whether blobs end up in the order in which they are pushed.
    fn is_ordered(&self) -> bool {
        false
    }
}

/// A place that one image is written to: a tag of a registry, an image of a layout, or an archive.
///
/// Blobs come first, then the manifests that name them, then with [`finish`](Self::finish) the document that the name leads
/// to. What is dropped before that has changed nothing that the name led to before.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ocipull::{Digest, Options, Target};
///
/// # let dir = tempfile::tempdir()?;
/// # let name = format!("oci:{}:v1", dir.path().join("layout").display());
/// let target = Target::open(&name.parse()?, &Options::default())?;
/// let config = b"{}";
/// let digest = Digest::sha256(config);
/// target.push_blob(&digest, 2, None, |_| Ok(Box::new(&config[..])))?;
/// let manifest = format!(
///     r#"{{"schemaVersion":2,"config":{{"mediaType":"text/plain","digest":"{digest}","size":2}},"layers":[]}}"#
/// );
/// target.finish("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Target {
    sink: Box<dyn Sink>,
    place: Reference,
}

impl Target {
    /// Opens the registry, layout or archive that `reference` names for writing. A missing layout is created.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidReference`] for places that images are not written to; those of the files involved.
    pub fn open(reference: &Reference, options: &Options) -> Result<Self, Error> {
        let refused = |problem: &str| {
            Err(Error::InvalidReference {
                text: reference.to_string(),
                problem: problem.to_owned(),
            })
        };
        // A layout's images have names, not positions, when they are written.
        if let Reference::OciLayout { tag: Some(tag), .. }
        | Reference::OciArchive { tag: Some(tag), .. } = reference
            && (tag.starts_with('@') || tag.contains('@'))
        {
            return refused("an image is written under a name, not a position or digest");
        }
        let sink: Box<dyn Sink> = match reference {
            #[cfg(not(feature = "registry"))]
            Reference::Registry { host, .. } => {
                return Err(Error::NoRegistryAccess { host: host.clone() });
            }
            #[cfg(feature = "registry")]
            Reference::Registry { tag, digest, .. } => {
                let repository = crate::Repository::of(reference, options)?;
                let name = digest.as_ref().map(Digest::as_str).or(tag.as_deref());
                Box::new(crate::registry::Upload::new(repository, name))
            }
            Reference::OciLayout { dir, tag } => {
                Box::new(LayoutSink::open(dir.clone(), tag.clone())?)
            }
            Reference::OciArchive { file, .. } if file.as_os_str() == "-" => {
                return refused("an archive is written to a file, not to standard output");
            }
            Reference::OciArchive { file, tag } => {
                Box::new(ArchiveSink::create(file.clone(), tag.clone())?)
            }
            _ => return refused("images are written to registries, oci: and oci-archive: only"),
        };
        let _ = options;
        Ok(Self {
            sink,
            place: reference.clone(),
        })
    }

    /// Returns the place that is written to.
    pub fn reference(&self) -> &Reference {
        &self.place
    }

    /// Writes the blob `digest`, which has `size` bytes, unless it is there. `open` gives its bytes from an offset on, and is
    /// called again where an upload broke off. With `from`, another repository of the same registry, it is taken from there if
    /// possible. Several threads may push blobs at once.
    ///
    /// # Errors
    ///
    /// Those of [`Repository::push_blob`](crate::Repository::push_blob); [`Error::DigestMismatch`] and
    /// [`Error::SizeMismatch`] where `open` gives other bytes; [`Error::Io`].
    pub fn push_blob(
        &self,
        digest: &Digest,
        size: u64,
        from: Option<&str>,
        mut open: impl FnMut(u64) -> io::Result<Box<dyn Read>>,
    ) -> Result<Pushed, Error> {
        self.sink.blob(digest, size, from, &mut open)
    }

    /// Writes a manifest or an index under its digest, which it returns. What it lists must be there.
    ///
    /// # Errors
    ///
    /// Those of [`Repository::push_manifest`](crate::Repository::push_manifest); [`Error::Io`].
    pub fn push_manifest(&self, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::sha256(bytes);
        self.sink.manifest(&digest, media_type, bytes)?;
        Ok(digest)
    }

    /// Writes the manifest or index that the target's name leads to from now on, and returns its digest.
    ///
    /// # Errors
    ///
    /// As for [`push_manifest`](Self::push_manifest).
    pub fn finish(self, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::sha256(bytes);
        self.finish_as(&digest, media_type, bytes)?;
        Ok(digest)
    }

    /// As [`finish`](Self::finish), of a document that has `digest` in whatever algorithm.
    pub(crate) fn finish_as(
        self,
        digest: &Digest,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.sink.root(digest, media_type, bytes)
    }

    pub(crate) fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Whether the bytes of the target depend on the order in which blobs are pushed.
    pub fn is_ordered(&self) -> bool {
        self.sink.is_ordered()
    }
}

/// Copies a blob of `size` bytes and verifies it. Nothing but an error tells what was written where it fails.
pub(crate) fn copy_verified(
    digest: &Digest,
    size: u64,
    open: &mut Open<'_>,
    mut write: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |error: io::Error| match error.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::Read { source },
    };
    // One more than there should be, to see whether there is more.
    let mut reader = open(0).map_err(failed)?.take(size.saturating_add(1));
    let mut hasher = digest.hasher();
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0_u64;
    loop {
        let bytes = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        total = total.saturating_add(bytes as u64);
        if total > size {
            break;
        }
        hasher.update(&buffer[..bytes]);
        write(&buffer[..bytes])?;
    }
    let document = crate::Document::Blob;
    if total != size {
        return Err(Error::SizeMismatch {
            document,
            digest: digest.clone(),
            expected: size,
            actual: total,
        });
    }
    let actual = hasher.finish();
    if actual != *digest {
        return Err(Error::DigestMismatch {
            document,
            expected: digest.clone(),
            actual,
        });
    }
    Ok(())
}

/// An entry of `index.json` for the document that a name leads to.
pub(crate) fn entry(
    digest: &Digest,
    media_type: &str,
    size: usize,
    tag: Option<&str>,
) -> serde_json::Value {
    let mut entry = serde_json::json!({
        "mediaType": media_type, "digest": digest.as_str(), "size": size,
    });
    if let Some(tag) = tag {
        entry["annotations"] = serde_json::json!({ crate::layout::REF_NAME: tag });
    }
    entry
}
