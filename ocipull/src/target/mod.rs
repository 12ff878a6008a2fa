//! Where images are written: registries, layouts and archives.

mod archive;
mod layout;
mod sink;

use std::io::{self, Read};

use crate::{Digest, Error, Event, Events, Options, Pushed, Reference};
use archive::ArchiveSink;
pub use archive::ArchiveWriter;
use layout::LayoutSink;
#[cfg(feature = "registry")]
pub(crate) use sink::Open;
pub(crate) use sink::Sink;

/// A place that one image is written to: a tag of a registry, an image of a layout, or an archive.
///
/// Blobs come first, then the manifests that name them, then with [`finish`](Self::finish) the
/// document that the name leads to. A target dropped before that leaves the name unchanged.
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
    events: Option<Events>,
}

impl Target {
    /// Opens the registry, layout or archive that `reference` names for writing. A missing layout
    /// is created.
    ///
    /// ```
    /// use ocipull::{Options, Target};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let layout = dir.path().join("layout");
    /// let reference = format!("oci:{}:v1", layout.display()).parse()?;
    /// let target = Target::open(&reference, &Options::default())?;
    /// assert!(layout.join("oci-layout").exists());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidReference`] for places that images are not written to; those of the files
    /// involved.
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
        Ok(Self {
            sink,
            place: reference.clone(),
            events: options.events.clone(),
        })
    }

    /// Returns the place that is written to.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let layout = dir.path().join("layout");
    /// # let name = format!("oci:{}:v1", layout.display());
    /// # let target = ocipull::Target::open(&name.parse()?, &ocipull::Options::default())?;
    /// assert_eq!(target.reference().to_string(), name);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reference(&self) -> &Reference {
        &self.place
    }

    /// Writes the blob `digest`, which has `size` bytes, unless it is there. `open` returns its
    /// bytes from an offset on, and is called again after an interruption. With `from`, another
    /// repository of the same registry, the blob is mounted from there if possible. Several threads
    /// may push blobs at once. [`Options::events`] of the target receives its progress.
    ///
    /// ```
    /// use ocipull::{Digest, Pushed};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let layout = dir.path().join("layout");
    /// # let name = format!("oci:{}:v1", layout.display());
    /// # let target = ocipull::Target::open(&name.parse()?, &ocipull::Options::default())?;
    /// let config = b"{}";
    /// let digest = Digest::sha256(config);
    /// let mut push = || target.push_blob(&digest, 2, None, |_| Ok(Box::new(&config[..])));
    /// assert_eq!(push()?, Pushed::Uploaded);
    /// assert_eq!(push()?, Pushed::Existed);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Repository::push_blob`](crate::Repository::push_blob); [`Error::DigestMismatch`]
    /// and [`Error::SizeMismatch`] where `open` gives other bytes; [`Error::Io`].
    pub fn push_blob(
        &self,
        digest: &Digest,
        size: u64,
        from: Option<&str>,
        mut open: impl FnMut(u64) -> io::Result<Box<dyn Read>>,
    ) -> Result<Pushed, Error> {
        let Some(events) = &self.events else {
            return self.sink.blob(digest, size, from, &mut open);
        };
        let mut open = |offset| -> io::Result<Box<dyn Read>> {
            let reader = Reporting {
                inner: open(offset)?,
                events: events.clone(),
                digest: digest.clone(),
                size,
                sent: offset,
            };
            reader.report();
            Ok(Box::new(reader))
        };
        let pushed = self.sink.blob(digest, size, from, &mut open)?;
        events.report(&Event::Pushed {
            digest,
            size,
            pushed,
        });
        Ok(pushed)
    }

    /// Writes a manifest or an index under its digest, which it returns. The blobs and manifests
    /// that it lists must be in the target.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let layout = dir.path().join("layout");
    /// # let name = format!("oci:{}:v1", layout.display());
    /// # let target = ocipull::Target::open(&name.parse()?, &ocipull::Options::default())?;
    /// let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    /// let media_type = "application/vnd.oci.image.index.v1+json";
    /// let digest = target.push_manifest(media_type, index.as_bytes())?;
    /// assert!(digest.is_of(index.as_bytes()));
    /// assert!(layout.join("blobs/sha256").join(digest.hex()).exists());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Repository::push_manifest`](crate::Repository::push_manifest); [`Error::Io`].
    pub fn push_manifest(&self, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::sha256(bytes);
        self.sink.manifest(&digest, media_type, bytes)?;
        Ok(digest)
    }

    /// Writes the manifest or index that the target's name leads to from now on, and returns its
    /// digest.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let layout = dir.path().join("layout");
    /// # let name = format!("oci:{}:v1", layout.display());
    /// # let target = ocipull::Target::open(&name.parse()?, &ocipull::Options::default())?;
    /// let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    /// let digest = target.finish("application/vnd.oci.image.index.v1+json", index.as_bytes())?;
    /// let names = std::fs::read_to_string(layout.join("index.json"))?;
    /// assert!(names.contains(digest.as_str()) && names.contains("v1"));
    /// # Ok(())
    /// # }
    /// ```
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

/// A blob that reports how much of it was read.
struct Reporting {
    inner: Box<dyn Read>,
    events: Events,
    digest: Digest,
    size: u64,
    sent: u64,
}

impl Reporting {
    fn report(&self) {
        self.events.report(&Event::Pushing {
            digest: &self.digest,
            size: self.size,
            sent: self.sent,
        });
    }
}

impl Read for Reporting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        if bytes > 0 {
            self.sent = self.sent.saturating_add(bytes as u64);
            self.report();
        }
        Ok(bytes)
    }
}
