//! The interface of registries, layouts and archives.

use std::fmt::Debug;
use std::io::Read;

use crate::chunk::{Stream, Unshared};
use crate::kept::Claim;
use crate::spec::Descriptor;
use crate::{Digest, Document, Error};

/// The largest manifest or index that is read: what the distribution specification asks registries
/// to take.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;

/// The largest configuration that is read.
pub(crate) const MAX_CONFIG: u64 = 16 << 20;

/// A source of one image's documents and blobs. Blobs are not verified yet.
pub(crate) trait Source: Debug + Send + Sync {
    /// Returns the document that the reference names, or the entries to choose from.
    fn root(&self) -> Result<Root, Error>;

    /// The manifest or index that `descriptor` names, at most [`MAX_MANIFEST`] bytes of it.
    fn manifest(&self, descriptor: &Descriptor, digest: &Digest) -> Result<Vec<u8>, Error>;

    /// The bytes of the blob `digest`, which should be `size` bytes long.
    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, Error>;

    /// The same of a layer, with the right to the file in which its bytes are kept, if they are.
    fn layer(&self, digest: &Digest, size: u64) -> Result<(Box<dyn Stream>, Option<Claim>), Error> {
        Ok((Box::new(Unshared(self.blob(digest, size)?)), None))
    }

    /// The bytes of the blob from byte `offset` on.
    fn blob_from(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Result<Box<dyn Read + Send>, Error> {
        let mut blob = self.blob(digest, size)?;
        std::io::copy(&mut (&mut blob).take(offset), &mut std::io::sink())
            .map_err(|source| Error::Read { source })?;
        Ok(blob)
    }

    /// Whether it has the blob.
    #[cfg(feature = "registry")]
    fn has(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.blob(digest, 0).is_ok())
    }

    /// Removes bytes that an earlier read of the blob kept for a later one.
    fn forget(&self, _digest: &Digest) {}
}

/// The result of resolving a reference.
pub(crate) enum Root {
    /// Images to choose one from.
    Choice(Vec<Descriptor>),
    /// A manifest or an index.
    Document {
        bytes: Vec<u8>,
        /// The media type by the source, in addition to the document's own.
        media_type: Option<String>,
        /// Verified.
        digest: Digest,
    },
}

/// All of `reader`, which should be `size` bytes and digest to `digest`.
pub(crate) fn read_verified(
    reader: impl Read,
    document: Document,
    digest: &Digest,
    size: u64,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    if size > limit {
        return Err(Error::TooLarge { document, limit });
    }
    let mut bytes = Vec::new();
    // Reads one byte more than expected, to detect a longer input.
    reader
        .take(size + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| match error.downcast() {
            Ok(error) => error,
            Err(source) => Error::Read { source },
        })?;
    verify(&bytes, document, digest, size)?;
    Ok(bytes)
}

/// Checks that `bytes` are the `size` bytes that digest to `digest`.
pub(crate) fn verify(
    bytes: &[u8],
    document: Document,
    digest: &Digest,
    size: u64,
) -> Result<(), Error> {
    check(document, (digest, size), bytes.len() as u64, || {
        digest.same_of(bytes)
    })
}

/// Checks that a document of `actual` bytes has the digest and the size that are `expected`. Its
/// own digest is not asked for where the sizes differ.
pub(crate) fn check(
    document: Document,
    (digest, size): (&Digest, u64),
    actual: u64,
    actual_digest: impl FnOnce() -> Digest,
) -> Result<(), Error> {
    if actual != size {
        return Err(Error::SizeMismatch {
            document,
            digest: digest.clone(),
            expected: size,
            actual,
        });
    }
    let actual = actual_digest();
    if actual != *digest {
        return Err(Error::DigestMismatch {
            document,
            expected: digest.clone(),
            actual,
        });
    }
    Ok(())
}

/// The digest in a descriptor.
pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest, Error> {
    descriptor.digest().parse()
}
