//! The interface of everything that images are written to, and what its implementations share.

use std::fmt;
use std::io::{self, Read};

use crate::layout::REF_NAME;
use crate::source::check;
use crate::{Digest, Document, Error, Pushed};

/// The file that marks a layout.
pub(super) const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Returns the bytes of a blob from an offset on.
pub(crate) type Open<'a> = dyn FnMut(u64) -> io::Result<Box<dyn Read>> + 'a;

/// The interface of registries, layouts and archives that are written to.
pub(crate) trait Sink: fmt::Debug + Send + Sync {
    /// Writes the blob `digest` of `size` bytes, unless it exists already. `from` is another
    /// repository of the same registry.
    fn blob(
        &self,
        digest: &Digest,
        size: u64,
        from: Option<&str>,
        open: &mut Open<'_>,
    ) -> Result<Pushed, Error>;

    /// Writes a manifest or an index without a name.
    fn manifest(&self, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Writes the document that the target's name refers to from then on.
    fn root(&self, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Whether blobs end up in the order in which they are pushed.
    fn is_ordered(&self) -> bool {
        false
    }
}

/// Copies a blob of `size` bytes and verifies it. On an error, unverified bytes may have been
/// written.
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
    // Reads one byte more than expected, to detect a longer input.
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
    check(Document::Blob, (digest, size), total, || hasher.finish())
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
        entry["annotations"] = serde_json::json!({ REF_NAME: tag });
    }
    entry
}
