//! Registries, by the OCI distribution specification.

mod blob;
mod connection;
mod trusted;

use std::io::Read;
use std::sync::Arc;

use oci_spec::image::Descriptor;

use crate::source::{MAX_MANIFEST, Root, Source, verify};
use crate::{Digest, Document, Error, Options};
use blob::BlobReader;
use connection::Connection;

/// One image in a repository.
#[derive(Debug)]
pub(crate) struct Registry {
    connection: Arc<Connection>,
    /// A tag or a digest.
    name: String,
    digest: Option<Digest>,
}

impl Registry {
    /// Gets ready to ask `host` for the repository, tag and digest in `name`.
    pub(crate) fn new(
        host: &str,
        (repository, tag, digest): (&str, Option<&str>, Option<&Digest>),
        options: &Options,
    ) -> Result<Self, Error> {
        let connection = Arc::new(Connection::new(host, repository, options)?);
        let name = digest
            .map(Digest::as_str)
            .or(tag)
            .unwrap_or("latest")
            .to_owned();
        Ok(Self {
            connection,
            name,
            digest: digest.cloned(),
        })
    }
}

impl Source for Registry {
    fn root(&self) -> Result<Root, Error> {
        let answer = self.connection.manifest(&self.name)?;
        let digest = match &self.digest {
            Some(digest) => {
                verify(
                    &answer.bytes,
                    Document::Manifest,
                    digest,
                    answer.bytes.len() as u64,
                )?;
                digest.clone()
            }
            None => Digest::sha256(&answer.bytes),
        };
        // A header that says otherwise means that something on the way changed the bytes.
        if let Some(expected) = answer.digest {
            verify(
                &answer.bytes,
                Document::Manifest,
                &expected,
                answer.bytes.len() as u64,
            )?;
        }
        Ok(Root::Document {
            bytes: answer.bytes,
            media_type: answer.media_type,
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
        let answer = self.connection.manifest(digest.as_str())?;
        verify(&answer.bytes, Document::Manifest, digest, descriptor.size())?;
        Ok(answer.bytes)
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, Error> {
        Ok(Box::new(BlobReader::new(
            self.connection.clone(),
            digest,
            size,
        )))
    }
}
