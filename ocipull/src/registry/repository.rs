//! The client of a repository: resolving, listing, fetching and pushing.

use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ureq::http::Method;

use super::ask::Ask;
use super::blob::{BlobReader, Extent};
use super::endpoint::Access;
use super::mirrors::{For, Mirrors};
#[cfg(unix)]
use super::partial::KeptReader;
use super::ranges::{Download, Plan};
use super::retry::Failure;
use super::upload;
use super::verified::VerifiedReader;
use crate::chunk::Stream;
use crate::kept::Claim;
use crate::source::{MAX_MANIFEST, verify};
use crate::{Digest, Document, Error, Options, Pushed, Reference, name};

const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A repository in a registry.
///
/// Calls block, for a bounded time: see [`Options::stall_timeout`] and [`Options::retries`]. They
/// work inside and outside of an asynchronous runtime.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(super) mirrors: Arc<Mirrors>,
    host: String,
    plan: Plan,
    partial_downloads: Option<PathBuf>,
    upload_chunk: u64,
}

/// A manifest or an index, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    bytes: Vec<u8>,
    media_type: Option<String>,
    digest: Digest,
}

impl Manifest {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The media type that the registry says it has, if it does.
    pub fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// The digest of its bytes; verified, where it was asked for by one.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn into_parts(self) -> (Vec<u8>, Option<String>, Digest) {
        (self.bytes, self.media_type, self.digest)
    }
}

impl Repository {
    /// Returns a client for `repository` of the registry `host`, which may have a port after a
    /// colon. Nothing is sent yet.
    ///
    /// ```no_run
    /// use ocipull::{Options, Repository};
    ///
    /// let repository = Repository::new("docker.io", "library/debian", &Options::default())?;
    /// println!("{}", repository.resolve("12")?);
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidReference`], [`Error::Blocked`], and those of the files that `options` name.
    pub fn new(host: &str, repository: &str, options: &Options) -> Result<Self, Error> {
        if !name::is_host(host) || !name::is_repository(repository) {
            return Err(Error::InvalidReference {
                text: format!("{host}/{repository}"),
                problem: "not the name of a repository".to_owned(),
            });
        }
        let host = host.to_ascii_lowercase();
        Ok(Self {
            mirrors: Arc::new(Mirrors::new(&host, repository, options)?),
            host,
            plan: Plan::new(options),
            partial_downloads: options.partial_downloads.clone(),
            upload_chunk: options.upload_chunk,
        })
    }

    /// Returns a client for the repository of a [`Reference::Registry`].
    ///
    /// ```no_run
    /// use ocipull::{Options, Reference, Repository};
    ///
    /// let reference: Reference = "ghcr.io/team/app:1".parse()?;
    /// let repository = Repository::of(&reference, &Options::default())?;
    /// assert!(repository.is_authentic());
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Repository::new`]; [`Error::InvalidReference`] for a reference to something else.
    pub fn of(reference: &Reference, options: &Options) -> Result<Self, Error> {
        match reference {
            Reference::Registry {
                host, repository, ..
            } => Self::new(host, repository, options),
            other => Err(Error::InvalidReference {
                text: other.to_string(),
                problem: "not in a registry".to_owned(),
            }),
        }
    }

    /// Returns whether all responses are protected by TLS with verified certificates, those of
    /// mirrors too. Those of a registry on this host's loopback interface need not be.
    ///
    /// ```
    /// use ocipull::{Options, Registries, Repository};
    ///
    /// let mut options = Options::default();
    /// options.registries = Registries::None;
    /// assert!(Repository::new("ghcr.io", "team/app", &options)?.is_authentic());
    /// options.plain_http = true;
    /// assert!(!Repository::new("localhost:5000", "app", &options)?.is_authentic());
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    pub fn is_authentic(&self) -> bool {
        self.mirrors.are_authentic()
    }

    /// Returns the digest of the manifest or index that `name`, a tag or a digest, currently refers
    /// to.
    ///
    /// ```no_run
    /// use ocipull::{Options, Repository};
    ///
    /// let repository = Repository::new("docker.io", "library/debian", &Options::default())?;
    /// println!("debian:12 is {}", repository.resolve("12")?);
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Unauthorized`], and those of the network.
    pub fn resolve(&self, name: &str) -> Result<Digest, Error> {
        let path = manifest_path(name)?;
        let digest = self.mirrors.first(what(name), |endpoint| {
            let url = endpoint.url(&path);
            let ask = Ask::new(Method::HEAD, &url, Access::Pull);
            let answer = endpoint.ask(ask.header("accept", ACCEPT_MANIFESTS));
            Ok(answer?.header("docker-content-digest").map(str::to_owned))
        });
        match digest.map(|digest| digest.and_then(|digest| digest.parse().ok())) {
            Ok(Some(digest)) => Ok(digest),
            // Some registries do not send the digest, or do not support such requests.
            Ok(None) | Err(Error::Http { .. }) => Ok(self.manifest(name)?.digest),
            Err(error) => Err(error),
        }
    }

    /// Returns the manifest or index that `name`, a tag or a digest, currently refers to.
    ///
    /// ```no_run
    /// use ocipull::{Options, Repository};
    ///
    /// let repository = Repository::new("docker.io", "library/debian", &Options::default())?;
    /// let manifest = repository.manifest("12")?;
    /// println!("{}: {} bytes", manifest.digest(), manifest.bytes().len());
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Unauthorized`], [`Error::DigestMismatch`], [`Error::TooLarge`]
    /// over 4 MiB, and those of the network.
    pub fn manifest(&self, name: &str) -> Result<Manifest, Error> {
        let path = manifest_path(name)?;
        let answer = self.mirrors.first(what(name), |endpoint| {
            let url = endpoint.url(&path);
            let ask = Ask::new(Method::GET, &url, Access::Pull);
            let mut answer = endpoint.ask(ask.header("accept", ACCEPT_MANIFESTS))?;
            let (bytes, complete) = answer
                .bounded(MAX_MANIFEST)
                .map_err(|broken| endpoint.broken(&url, 0, broken))?;
            if !complete {
                let (document, limit) = (Document::Manifest, MAX_MANIFEST);
                return Err(Failure::last(Error::TooLarge { document, limit }));
            }
            let media_type = answer.header("content-type").map(str::to_owned);
            // A digest in an unknown algorithm is ignored.
            let claimed = answer.header("docker-content-digest");
            let claimed = claimed.and_then(|digest| digest.parse::<Digest>().ok());
            Ok((bytes, media_type, claimed))
        });
        let (bytes, media_type, claimed) = answer?;
        let asked = name.parse::<Digest>().ok();
        // A different digest in the header means that the bytes were changed in transit.
        for expected in asked.iter().chain(&claimed) {
            verify(&bytes, Document::Manifest, expected, bytes.len() as u64)?;
        }
        Ok(Manifest {
            digest: asked.unwrap_or_else(|| Digest::sha256(&bytes)),
            bytes,
            media_type,
        })
    }

    /// The size of the blob `digest` in bytes, or `None` if the repository does not have it.
    ///
    /// ```no_run
    /// use ocipull::{Digest, Options, Repository};
    ///
    /// let repository = Repository::new("registry.example", "team/app", &Options::default())?;
    /// match repository.blob_size(&Digest::sha256(b"{}"))? {
    ///     Some(size) => println!("the blob has {size} bytes"),
    ///     None => println!("there is no such blob"),
    /// }
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`], and those of the network.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let size = self.mirrors.first(For::Primary, |endpoint| {
            upload::size(endpoint, digest, Access::Pull)
        });
        match size {
            Err(Error::NotFound { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The blob `digest`, which has `size` bytes. If the bytes do not match the digest, the reader
    /// returns an error at the end; earlier bytes must not be relied on until then. Nothing is sent
    /// before the first read.
    ///
    /// ```no_run
    /// use ocipull::{Digest, Options, Repository};
    ///
    /// let repository = Repository::new("registry.example", "team/app", &Options::default())?;
    /// let digest: Digest = std::env::args().nth(1).unwrap_or_default().parse()?;
    /// if let Some(size) = repository.blob_size(&digest)? {
    ///     // Fails at the end if the bytes do not match the digest.
    ///     std::io::copy(&mut repository.blob(&digest, size), &mut std::io::stdout())?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn blob(&self, digest: &Digest, size: u64) -> impl Read + Send + use<> {
        VerifiedReader::new(self.mirrors.clone(), digest, size, self.plan)
    }

    /// Reads some of the bytes of the blob `digest`. They cannot be verified.
    ///
    /// ```no_run
    /// use std::io::Read;
    ///
    /// use ocipull::{Digest, Options, Repository};
    ///
    /// let repository = Repository::new("registry.example", "team/app", &Options::default())?;
    /// let digest: Digest = std::env::args().nth(1).unwrap_or_default().parse()?;
    /// let mut magic = [0; 4];
    /// repository.blob_range(&digest, 0..4).read_exact(&mut magic)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn blob_range(&self, digest: &Digest, range: Range<u64>) -> impl Read + Send + use<> {
        BlobReader::new(self.mirrors.clone(), digest, range, Extent::Range)
    }

    /// The bytes of the blob `digest` from the start of `range` to its end, not verified.
    pub(super) fn download(&self, digest: &Digest, range: Range<u64>) -> Download {
        Download::new(self.mirrors.clone(), digest, range, self.plan)
    }

    /// The bytes of a blob of `size` bytes, not verified. What comes of a large one is kept where
    /// [`Options::partial_downloads`] says; then it comes with the right to that file.
    pub(super) fn kept_blob(&self, digest: &Digest, size: u64) -> (Box<dyn Stream>, Option<Claim>) {
        #[cfg(unix)]
        if let Some(folder) = &self.partial_downloads
            && size > self.plan.range
        {
            let place = (folder.as_path(), self.host.as_str());
            let (repository, blob) = (self.clone(), digest.clone());
            let fetch = move |offset| repository.download(&blob, offset..size);
            let range = self.plan.range;
            let reader = KeptReader::new(place, digest, (size, range), fetch);
            let claim = reader.claim();
            return (Box::new(reader), claim);
        }
        (Box::new(self.download(digest, 0..size)), None)
    }

    /// Removes what is kept of a blob.
    pub(super) fn forget(&self, digest: &Digest) {
        #[cfg(unix)]
        if let Some(folder) = &self.partial_downloads {
            super::partial::forget(folder, &self.host, digest);
        }
        #[cfg(not(unix))]
        let _ = (&self.host, &self.partial_downloads, digest);
    }

    /// Pushes the blob `digest`, which has `size` bytes, unless it is there. `open` returns its
    /// bytes from an offset on, and is called again after an interruption. With `from`, another
    /// repository of the registry, the blob is mounted from there if possible.
    ///
    /// ```no_run
    /// use ocipull::{Digest, Options, Pushed, Repository};
    ///
    /// let repository = Repository::new("localhost:5000", "app", &Options::default())?;
    /// let config = b"{}";
    /// let digest = Digest::sha256(config);
    /// let open = |offset: u64| Ok(&config[offset as usize..]);
    /// let pushed = repository.push_blob(&digest, 2, None, open)?;
    /// println!("{}", if pushed == Pushed::Existed { "existed" } else { "uploaded" });
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`], [`Error::Read`] for the blob's own reader, [`Error::Http`] where
    /// the registry refuses it (400 if the bytes are not those that the digest names), and those of
    /// the network.
    pub fn push_blob<R: Read>(
        &self,
        digest: &Digest,
        size: u64,
        from: Option<&str>,
        open: impl FnMut(u64) -> std::io::Result<R>,
    ) -> Result<Pushed, Error> {
        if let Some(from) = from
            && !name::is_repository(from)
        {
            return Err(Error::InvalidReference {
                text: from.to_owned(),
                problem: "not the name of a repository".to_owned(),
            });
        }
        let mut blob = upload::Blob {
            digest,
            size,
            chunk: self.upload_chunk,
            open,
        };
        self.mirrors.first_with(For::Primary, |endpoint| {
            upload::push(endpoint, &mut blob, from)
        })
    }

    /// Pushes a manifest or an index under `name`, a tag or its digest, and returns its digest. The
    /// blobs and manifests that it lists must be in the repository.
    ///
    /// ```no_run
    /// use ocipull::{Options, Repository};
    ///
    /// let repository = Repository::new("localhost:5000", "app", &Options::default())?;
    /// // Gives the image `v1` another tag.
    /// let manifest = repository.manifest("v1")?;
    /// let media_type = manifest.media_type();
    /// let media_type = media_type.unwrap_or("application/vnd.oci.image.manifest.v1+json");
    /// repository.push_manifest("stable", media_type, manifest.bytes())?;
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`], [`Error::Http`] where the registry refuses it,
    /// [`Error::DigestMismatch`] where it stored something else, and those of the network.
    pub fn push_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, Error> {
        let path = manifest_path(name)?;
        let asked = name.parse::<Digest>().ok();
        if let Some(expected) = &asked {
            verify(bytes, Document::Manifest, expected, bytes.len() as u64)?;
        }
        let stored = self.mirrors.first(For::Primary, |endpoint| {
            let url = endpoint.url(&path);
            let ask = Ask::new(Method::PUT, &url, Access::Push)
                .header("content-type", media_type)
                .body(super::transport::Body::Bytes(bytes));
            let answer = endpoint.ask(ask)?;
            let stored = answer.header("docker-content-digest");
            Ok(stored.and_then(|digest| digest.parse::<Digest>().ok()))
        })?;
        if let Some(stored) = stored {
            verify(bytes, Document::Manifest, &stored, bytes.len() as u64)?;
        }
        Ok(asked.unwrap_or_else(|| Digest::sha256(bytes)))
    }
}

fn what(name: &str) -> For {
    match name.contains(':') {
        true => For::Digest,
        false => For::Tag,
    }
}

fn manifest_path(name: &str) -> Result<String, Error> {
    match name.parse::<Digest>().is_ok() || name::is_tag(name) {
        true => Ok(format!("/manifests/{name}")),
        false => Err(Error::InvalidReference {
            text: name.to_owned(),
            problem: "neither a tag nor a digest".to_owned(),
        }),
    }
}
