mod detail;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::{Digest, Platform};
pub use detail::{Cause, ConnectHint, CredentialSource, Document, SourceProblem, UsedProxy};

/// Why an image or a layer cannot be read, fetched or written.
///
/// Readers of layers return these inside an [`io::Error`]; [`Error::of`] extracts them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a valid image reference.
    #[error("{text:?} is not a valid image reference: {problem}")]
    InvalidReference {
        /// The text as given.
        text: String,
        /// The problem.
        problem: String,
    },
    /// The text is not a digest.
    #[error("{text:?} is not a valid sha256 or sha512 digest")]
    InvalidDigest {
        /// The text as found.
        text: String,
    },
    /// The text is not a platform.
    #[error(
        "{text:?} is not a valid platform: expected OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64"
    )]
    InvalidPlatform {
        /// The text as given.
        text: String,
    },
    /// A file could not be opened, read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The input of [`decompress`](crate::decompress) failed.
    #[error("cannot read the input")]
    Read {
        /// The error of the stream.
        source: io::Error,
    },
    /// The output of an [`ArchiveWriter`](crate::ArchiveWriter) failed.
    #[error("cannot write the output")]
    Write {
        /// The error of the output.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The folder or archive does not have the format that the reference names.
    #[error("{}: {problem}", path.display())]
    InvalidSource {
        /// The folder or archive.
        path: PathBuf,
        /// The problem.
        problem: SourceProblem,
    },
    /// There is no image of that name, or several images and no name was given.
    #[error("{place} has {}; it has: {}", match tag { Some(tag) => format!("no image {tag:?}"), None => "several images, name one".to_owned() }, listed(available))]
    NoSuchImage {
        /// The folder or archive.
        place: String,
        /// The name looked for.
        tag: Option<String>,
        /// The names there.
        available: Vec<String>,
    },
    /// Several images of that name, for the same platform or for none.
    #[error(
        "{place} has several images {name:?}; pick one by its position or digest: {}",
        listed(available)
    )]
    AmbiguousName {
        /// The folder or archive.
        place: String,
        /// The name looked for.
        name: String,
        /// The positions of those images, as references write them: `@0`.
        available: Vec<String>,
    },
    /// An index refers to more indexes than allowed.
    #[error("the index lists more than {limit} nested indexes")]
    TooManyIndexes {
        /// The limit.
        limit: usize,
    },
    /// `DOCKER_HOST` names a daemon that cannot be reached this way.
    #[error("DOCKER_HOST is {host:?}: only unix:// sockets are supported")]
    DockerHost {
        /// The variable's value.
        host: String,
    },
    /// The image has several platforms, but not the requested one.
    #[error("no image for {wanted}; there are: {}", listed(available))]
    NoPlatform {
        /// The platform looked for.
        wanted: Platform,
        /// The platforms there.
        available: Vec<Platform>,
    },
    /// Indexes are nested too deeply.
    #[error("index {digest} is nested too deeply")]
    IndexDepth {
        /// The index that was not read.
        digest: Digest,
    },
    /// A document does not match its media type.
    #[error("cannot parse {document} {digest}")]
    Json {
        /// Which document.
        document: Document,
        /// Its digest.
        digest: Digest,
        /// The error of the parser.
        source: serde_json::Error,
    },
    /// The media type is not one of a container image: an artifact, or a layer in an unknown
    /// format.
    #[error("{document} {digest} has the unsupported media type {media_type:?}")]
    MediaType {
        /// The document that has it.
        document: Document,
        /// Its digest.
        digest: Digest,
        /// The media type.
        media_type: String,
    },
    /// A layer that must be fetched from other places ("foreign", "non-distributable").
    #[error(
        "layer {digest} is foreign ({media_type}): it must not be distributed, and is not fetched from elsewhere"
    )]
    ForeignLayer {
        /// Its digest.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// A layer of EROFS images that is not put above the others: a device or a store of data of
    /// another layer.
    #[error("layer {digest} has the role {role:?}, and only layers of file systems are supported")]
    LayerRole {
        /// Its digest.
        digest: Digest,
        /// Its role: the annotation `org.erofs.role`.
        role: String,
    },
    /// The configuration does not have one diff ID for each layer.
    #[error("the image has {layers} layers but {diff_ids} diff IDs")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Diff IDs in the configuration.
        diff_ids: usize,
    },
    /// No such layer.
    #[error("no layer {index}: the image has {layers}")]
    NoLayer {
        /// The index asked for.
        index: usize,
        /// Layers in the image.
        layers: usize,
    },
    /// A reader of a layer was dropped before the layer was verified, and what was read may have
    /// been used. Reading the layer to its end verifies it after all.
    #[error("layer {layer} was not read to its end, so its contents are not verified")]
    Unverified {
        /// The digest of the layer as it is stored.
        layer: Digest,
    },
    /// A document over the limit.
    #[error("{document} is larger than {limit} bytes")]
    TooLarge {
        /// Which document.
        document: Document,
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes do not match the digest.
    #[error("{document} {expected} is corrupt: its digest is {actual}")]
    DigestMismatch {
        /// Which document or layer.
        document: Document,
        /// The expected digest.
        expected: Digest,
        /// The digest of the received bytes.
        actual: Digest,
    },
    /// The number of bytes differs from the descriptor.
    #[error(
        "{document} {digest} is corrupt: it has {actual} bytes where its descriptor says {expected}"
    )]
    SizeMismatch {
        /// Which document or layer.
        document: Document,
        /// Its digest.
        digest: Digest,
        /// Bytes by its descriptor.
        expected: u64,
        /// Bytes received. If there are more than expected, this is one more, because the rest is
        /// not read.
        actual: u64,
    },
    /// The uncompressed layer does not match its diff ID in the configuration.
    #[error(
        "layer {layer} is corrupt: its diff ID is {actual} where the configuration says {expected}"
    )]
    DiffIdMismatch {
        /// The layer's digest.
        layer: Digest,
        /// The diff ID in the configuration.
        expected: Digest,
        /// The digest of the uncompressed bytes.
        actual: Digest,
    },
    /// The compressed stream is damaged, truncated, or followed by other data.
    #[error("{}: bad {compression} stream", blob.as_ref().map_or("input".to_owned(), |digest| format!("layer {digest}")))]
    Compression {
        /// The layer, where it is one.
        blob: Option<Digest>,
        /// The compression.
        compression: &'static str,
        /// The error of the decoder.
        source: io::Error,
    },
    /// The crate was built without the feature for this compression.
    #[error("this program was built without support for {compression}")]
    NoDecoder {
        /// The compression, which is the name of the feature.
        compression: &'static str,
    },
    /// The decompressed layer is larger than the limit in [`Options`](crate::Options).
    #[error("{}: inflates to more than {limit} bytes", blob.as_ref().map_or("input".to_owned(), |digest| format!("layer {digest}")))]
    Bomb {
        /// The layer, where it is one.
        blob: Option<Digest>,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file has no valid certificates.
    #[error("{}: no valid certificates", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        source: Cause,
    },
    /// A file of credentials cannot be parsed.
    #[error("cannot parse {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        source: serde_json::Error,
    },
    /// A credential helper failed to store or to erase credentials.
    #[error("the credential helper {program} failed")]
    Helper {
        /// The program.
        program: String,
        /// Why.
        source: Cause,
    },
    /// A file of [`Registries`](crate::Registries) cannot be parsed.
    #[error("{}: {problem}", path.display())]
    RegistriesFile {
        /// The file.
        path: PathBuf,
        /// The problem and its place.
        problem: String,
    },
    /// A file of [`Registries`](crate::Registries) blocks the registry.
    #[error("{name} is blocked by {}", path.display())]
    Blocked {
        /// The host and repository.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// Built without the feature `registry`.
    #[error("{host}: this program was built without access to registries")]
    NoRegistryAccess {
        /// The registry's name and port.
        host: String,
    },
    /// No cryptography provider: built without the feature `ring`, and the program installed no
    /// other.
    #[error("{host}: this program was built without a provider of TLS")]
    NoTls {
        /// The registry's name and port.
        host: String,
    },
    /// An environment variable does not name a usable proxy. Its value is not shown, since it may
    /// contain a password.
    #[error("the environment variable {variable} {problem}")]
    Proxy {
        /// The variable.
        variable: &'static str,
        /// The problem.
        problem: &'static str,
    },
    /// The connection to the registry failed.
    #[error("cannot connect to {host}{}", proxy.as_ref().map_or_else(String::new, |proxy| format!(" through {proxy}")))]
    Connect {
        /// Its name and port.
        host: String,
        /// The proxy for it, if there is one.
        proxy: Option<UsedProxy>,
        /// The kind of failure, if known.
        hint: ConnectHint,
        /// For [`ConnectHint::Certificate`]: the folder in which the certificate of a private
        /// authority (`ca.crt`) would be trusted for this registry.
        certificate_folder: Option<PathBuf>,
        /// The error of the connection, with its causes.
        source: Cause,
    },
    /// The registry requires credentials, or rejected those sent.
    #[error("{}{}", refusal(host, repository, credentials), if message.is_empty() { String::new() } else { format!(": {message}") })]
    Unauthorized {
        /// Its name and port.
        host: String,
        /// The repository.
        repository: String,
        /// The source of the refused credentials.
        credentials: CredentialSource,
        /// Its message.
        message: String,
    },
    /// Credentials were requested over an unencrypted connection.
    #[error(
        "{host} wants its credentials sent to {url}, which TLS does not protect: they were not sent"
    )]
    InsecureRealm {
        /// The registry's name and port.
        host: String,
        /// The token service's address.
        url: String,
    },
    /// The text is not a valid download address. It is not shown, since it may contain a password.
    #[error("the address cannot be used: {problem}")]
    Address {
        /// The problem.
        problem: &'static str,
    },
    /// The server redirects to an address that is not followed.
    #[error("{url} redirects to an address that is not followed: {problem}")]
    Redirect {
        /// The address asked.
        url: String,
        /// Why it is not followed.
        problem: String,
    },
    /// The response of the server violates the specification.
    #[error("{url}: {problem}")]
    Protocol {
        /// The address asked.
        url: String,
        /// The problem of the response.
        problem: String,
    },
    /// The registry has no such repository, tag or blob.
    #[error("{host} has no {name}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    NotFound {
        /// Its name and port.
        host: String,
        /// The missing name: `repository:tag`, `repository@digest`.
        name: String,
        /// Its message.
        message: String,
    },
    /// The registry answered with an error.
    #[error("{url}: HTTP status {status}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Http {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its message.
        message: String,
    },
    /// A download was interrupted, and retries failed.
    #[error("{url}: broken off at byte {offset}")]
    Interrupted {
        /// The address asked.
        url: String,
        /// Bytes received before.
        offset: u64,
        /// The error of the connection, with its causes.
        source: Cause,
    },
    /// A layer was read again after an error.
    #[error("the layer failed before")]
    Failed,
}

impl Error {
    /// Returns the error of this crate inside `error`, the error of a layer's reader, if there is
    /// one.
    ///
    /// ```
    /// use std::io::Read;
    /// use ocipull::{Error, decompress_bounded};
    ///
    /// let mut bytes = Vec::new();
    /// let mut stream = decompress_bounded(&b"more than four bytes"[..], 4)?;
    /// let error = stream.read_to_end(&mut bytes).unwrap_err();
    /// assert!(matches!(Error::of(&error), Some(Error::Bomb { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns whether the same call may succeed later, as after a broken connection or with an
    /// overloaded server.
    ///
    /// ```
    /// use ocipull::Error;
    ///
    /// let error = Error::NoLayer { index: 7, layers: 2 };
    /// assert!(!error.is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { hint, .. } => {
                !matches!(hint, ConnectHint::PlainHttp | ConnectHint::Certificate)
            }
            Self::Interrupted { .. } => true,
            Self::Http { status, .. } => is_transient_status(*status),
            _ => false,
        }
    }
}

/// Whether an HTTP status reports a temporary condition: of the server's own errors, all except
/// "not implemented" and "version not supported". Proxies and content delivery networks have codes
/// of their own, such as 520 to 524 and 529.
pub(crate) fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599) && !matches!(status, 501 | 505)
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. }
            | Error::Read { source }
            | Error::Write { source }
            | Error::Thread { source } => source.kind(),
            Error::Connect { .. } => io::ErrorKind::ConnectionRefused,
            Error::Interrupted { .. } => io::ErrorKind::ConnectionAborted,
            Error::NotFound { .. } => io::ErrorKind::NotFound,
            Error::Unauthorized { .. } | Error::InsecureRealm { .. } | Error::Blocked { .. } => {
                io::ErrorKind::PermissionDenied
            }
            Error::Http { .. } | Error::Failed => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// The message of a refusal, which distinguishes a wrong password from a missing one.
fn refusal(host: &str, repository: &str, credentials: &CredentialSource) -> String {
    let refused = |what: String| format!("{host} refuses {what} for {repository}");
    match credentials {
        CredentialSource::None => refused("access without credentials".to_owned()),
        CredentialSource::Options => refused("the name and password given".to_owned()),
        CredentialSource::File(path) => refused(format!("the credentials of {}", path.display())),
        CredentialSource::Variable(name) => refused(format!("the credentials of ${name}")),
        CredentialSource::Helper(program) => refused(format!("the credentials of {program}")),
        CredentialSource::Unreadable(path) => refused(format!(
            "access without credentials (those of {} could not be read)",
            path.display()
        )),
        CredentialSource::UnreadableVariable(name) => refused(format!(
            "access without credentials (those of ${name} could not be read)"
        )),
        CredentialSource::FailedHelper { problem, .. } => {
            refused(format!("access without credentials ({problem})"))
        }
    }
}

fn listed<T: fmt::Display>(items: &[T]) -> String {
    const SHOWN: usize = 20;
    if items.is_empty() {
        return "none".to_owned();
    }
    let mut text: Vec<_> = items.iter().take(SHOWN).map(T::to_string).collect();
    if items.len() > SHOWN {
        text.push("…".to_owned());
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    /// Whether errors like this one have a cause. Lists all variants, so that a new one is not
    /// forgotten here.
    fn has_cause(error: &Error) -> bool {
        match error {
            Error::Io { .. }
            | Error::Read { .. }
            | Error::Write { .. }
            | Error::Thread { .. }
            | Error::Json { .. }
            | Error::Compression { .. }
            | Error::Certificates { .. }
            | Error::Credentials { .. }
            | Error::Helper { .. }
            | Error::Connect { .. }
            | Error::Interrupted { .. } => true,
            Error::InvalidReference { .. }
            | Error::InvalidDigest { .. }
            | Error::InvalidPlatform { .. }
            | Error::InvalidSource { .. }
            | Error::NoSuchImage { .. }
            | Error::AmbiguousName { .. }
            | Error::TooManyIndexes { .. }
            | Error::DockerHost { .. }
            | Error::NoPlatform { .. }
            | Error::IndexDepth { .. }
            | Error::MediaType { .. }
            | Error::ForeignLayer { .. }
            | Error::LayerRole { .. }
            | Error::LayerCount { .. }
            | Error::NoLayer { .. }
            | Error::Unverified { .. }
            | Error::TooLarge { .. }
            | Error::DigestMismatch { .. }
            | Error::SizeMismatch { .. }
            | Error::DiffIdMismatch { .. }
            | Error::NoDecoder { .. }
            | Error::Bomb { .. }
            | Error::RegistriesFile { .. }
            | Error::Blocked { .. }
            | Error::NoRegistryAccess { .. }
            | Error::NoTls { .. }
            | Error::Proxy { .. }
            | Error::Unauthorized { .. }
            | Error::InsecureRealm { .. }
            | Error::Address { .. }
            | Error::Redirect { .. }
            | Error::Protocol { .. }
            | Error::NotFound { .. }
            | Error::Http { .. }
            | Error::Failed => false,
        }
    }

    #[test]
    fn display_leaves_the_cause_to_source() {
        let io = || io::Error::other("THE CAUSE");
        let cause = || Cause(Box::new(io()));
        let json = || serde_json::Error::io(io());
        let digest = Digest::sha256(b"");
        let errors = [
            Error::Io {
                path: "a".into(),
                source: io(),
            },
            Error::Read { source: io() },
            Error::Write { source: io() },
            Error::Thread { source: io() },
            Error::Json {
                document: Document::Config,
                digest: digest.clone(),
                source: json(),
            },
            Error::Compression {
                blob: Some(digest),
                compression: "gzip",
                source: io(),
            },
            Error::Certificates {
                path: "a".into(),
                source: cause(),
            },
            Error::Credentials {
                path: "a".into(),
                source: json(),
            },
            Error::Helper {
                program: "a".into(),
                source: cause(),
            },
            Error::Connect {
                proxy: None,
                host: "a".into(),
                hint: ConnectHint::None,
                certificate_folder: None,
                source: cause(),
            },
            Error::Interrupted {
                url: "a".into(),
                offset: 0,
                source: cause(),
            },
        ];
        for error in errors {
            assert!(has_cause(&error));
            let source = error.source().expect("a cause");
            assert!(source.to_string().contains("THE CAUSE"), "{error:?}");
            assert!(!error.to_string().contains("THE CAUSE"), "{error:?}");
        }
        assert!(!has_cause(&Error::Failed));
    }

    #[test]
    fn a_cause_displays_the_first_cause_and_no_other() {
        let inner = Error::Read {
            source: io::Error::other("THE CAUSE"),
        };
        let cause = Cause(Box::new(inner));
        assert_eq!(cause.to_string(), "THE CAUSE");
        assert!(cause.source().is_none());
    }
}
