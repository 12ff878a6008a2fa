//! Registries, by the OCI distribution specification.
//!
//! [`repository`] is what programs use. It asks the servers in [`mirrors`], each an [`endpoint`];
//! [`ask`] shows it credentials and follows redirects, and [`transport`] does HTTP.

mod ask;
mod blob;
mod challenge;
mod conf;
mod download;
mod endpoint;
mod foreign;
mod listing;
mod login;
mod message;
mod mirrors;
#[cfg(unix)]
mod partial;
mod proxy;
mod ranges;
mod repository;
mod retry;
mod tls;
mod token;
mod transport;
mod upload;
mod url;
mod verified;

use std::io::Read;

pub use download::download;
pub(crate) use foreign::ForeignReader;
pub use listing::Referrer;
pub use login::check_login;
pub use repository::{Manifest, Repository};

use crate::chunk::Stream;
use crate::kept::Claim;
use crate::source::{MAX_MANIFEST, Root, Source, verify};
use crate::spec::Descriptor;
use crate::target::{Open, Sink};
use crate::{Digest, Document, Error, Options, Pushed};

/// One image in a repository.
#[derive(Debug)]
pub(crate) struct Registry {
    repository: Repository,
    /// A tag or a digest.
    name: String,
}

impl Registry {
    /// Returns a source for the repository, tag and digest at `host`.
    pub(crate) fn new(
        host: &str,
        (repository, tag, digest): (&str, Option<&str>, Option<&Digest>),
        options: &Options,
    ) -> Result<Self, Error> {
        let name = digest.map(Digest::as_str).or(tag).unwrap_or("latest");
        Ok(Self {
            repository: Repository::new(host, repository, options)?,
            name: name.to_owned(),
        })
    }
}

impl Source for Registry {
    fn root(&self) -> Result<Root, Error> {
        let (bytes, media_type, digest) = self.repository.manifest(&self.name)?.into_parts();
        Ok(Root::Document {
            bytes,
            media_type,
            digest,
        })
    }

    fn manifest(&self, descriptor: &Descriptor, digest: &Digest) -> Result<Vec<u8>, Error> {
        if descriptor.size() > MAX_MANIFEST {
            return Err(Error::TooLarge {
                document: Document::Manifest,
                limit: MAX_MANIFEST,
            });
        }
        let (bytes, ..) = self.repository.manifest(digest.as_str())?.into_parts();
        verify(&bytes, Document::Manifest, digest, descriptor.size())?;
        Ok(bytes)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, Error> {
        Ok(Box::new(self.repository.kept_blob(digest, size).0))
    }

    fn layer(&self, digest: &Digest, size: u64) -> Result<(Box<dyn Stream>, Option<Claim>), Error> {
        Ok(self.repository.kept_blob(digest, size))
    }

    fn blob_from(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Result<Box<dyn Read + Send>, Error> {
        Ok(Box::new(self.repository.download(digest, offset..size)))
    }

    fn has(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.repository.blob_size(digest)?.is_some())
    }

    fn forget(&self, digest: &Digest) {
        self.repository.forget(digest);
    }
}

/// A repository that one image is pushed to.
#[derive(Debug)]
pub(crate) struct Upload {
    repository: Repository,
    /// A tag or a digest.
    name: String,
}

impl Upload {
    pub(crate) fn new(repository: Repository, name: Option<&str>) -> Self {
        Self {
            repository,
            name: name.unwrap_or("latest").to_owned(),
        }
    }
}

impl Sink for Upload {
    fn blob(
        &self,
        digest: &Digest,
        size: u64,
        from: Option<&str>,
        open: &mut Open<'_>,
    ) -> Result<Pushed, Error> {
        let pushed = self.repository.push_blob(digest, size, from, open);
        pushed.map_err(|error| match error {
            Error::Read { source } => match source.downcast() {
                Ok(error) => error,
                Err(source) => Error::Read { source },
            },
            other => other,
        })
    }

    fn manifest(&self, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        let name = digest.as_str();
        self.repository.push_manifest(name, media_type, bytes)?;
        Ok(())
    }

    fn root(&self, _digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        self.repository
            .push_manifest(&self.name, media_type, bytes)?;
        Ok(())
    }
}

#[cfg(fuzzing)]
pub(crate) mod fuzz {
    pub(crate) fn challenges(header: &str) -> usize {
        super::challenge::parse(header).len()
    }

    pub(crate) fn ranges(header: &str, list: &[u8]) {
        let _ = super::blob::ContentRange::parse(header);
        #[cfg(unix)]
        super::partial::fuzz(list);
    }

    pub(crate) fn registries_conf(text: &str, host: &str, repository: &str) {
        let _ = super::conf::Conf::fuzz(text).and_then(|conf| conf.sites(host, repository));
    }
}
