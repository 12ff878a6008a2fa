//! What errors report besides their kind: for programs that advise their users.

use std::fmt;
use std::path::PathBuf;

/// A proxy, and who names it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsedProxy {
    /// Its host and port.
    pub address: String,
    /// The environment variable that names it.
    pub variable: &'static str,
}

impl fmt::Display for UsedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, variable } = self;
        write!(f, "the proxy {address}, which {variable} names")
    }
}

/// The kind of document that an error concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Document {
    /// An index of images.
    Index,
    /// An image manifest.
    Manifest,
    /// An image configuration.
    Config,
    /// A layer.
    Layer,
    /// Any other blob.
    Blob,
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Index => "index",
            Self::Manifest => "manifest",
            Self::Config => "configuration",
            Self::Layer => "layer",
            Self::Blob => "blob",
        })
    }
}

/// The source of the credentials that were sent to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialSource {
    /// There were no credentials.
    None,
    /// The caller's options.
    Options,
    /// A file of docker or podman.
    File(PathBuf),
    /// An environment variable: its name.
    Variable(String),
    /// A credential helper: the program.
    Helper(String),
    /// There were no credentials, perhaps because this file cannot be read.
    Unreadable(PathBuf),
    /// There were no credentials, perhaps because the value of this environment variable cannot be
    /// read.
    UnreadableVariable(String),
    /// There were no credentials, perhaps because a credential helper failed.
    FailedHelper {
        /// The program.
        program: String,
        /// What went wrong.
        problem: String,
    },
}

/// A problem of a layout folder or an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceProblem {
    /// A required file is missing.
    #[error("not {kind}: it has no {file:?}")]
    Missing {
        /// The expected kind of folder or archive.
        kind: &'static str,
        /// The file.
        file: String,
    },
    /// A file in it is not a regular file.
    #[error("{0:?} is not a regular file")]
    NotAFile(String),
    /// Symlinks in an archive form a loop.
    #[error("{0:?} is a symlink to itself or to too many others")]
    Links(String),
    /// The archive is compressed as a whole, and the stream is damaged or truncated.
    #[error("bad {compression} stream: {problem}")]
    BadCompression {
        /// The compression.
        compression: &'static str,
        /// What the decoder reported.
        problem: String,
    },
    /// The decompressed archive is larger than the limit of a layer in [`Options`](crate::Options).
    #[error("larger than {limit} bytes when decompressed")]
    TooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// The archive is expected on standard input, which is a terminal.
    #[error("a terminal, where an image archive is expected")]
    Terminal,
    /// The archive ends in the middle of a member.
    #[error("the archive is cut off at byte {0}")]
    CutOff(u64),
    /// A layout or an archive without images.
    #[error("it has no images")]
    NoImages,
    /// The first bytes of the file are not those of an archive.
    #[error("not a tar archive")]
    NoArchive,
    /// The file is of another known format, such as `a zip archive`.
    #[error("not a tar archive: it is {0}")]
    OtherFormat(&'static str),
    /// The archive is damaged.
    #[error("not a valid tar archive: {0}")]
    NotTar(String),
    /// A JSON file in it does not parse.
    #[error("{file:?}: {problem}")]
    Json {
        /// The file.
        file: String,
        /// The error of the parser.
        problem: String,
    },
    /// A later version of the image layout.
    #[error("image layout version {0:?} is not supported")]
    LayoutVersion(String),
}

/// The reason why a connection failed, for programs that advise their users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectHint {
    /// Nothing known.
    None,
    /// The server answers in HTTP.
    PlainHttp,
    /// The server's certificate is not one that this host trusts.
    Certificate,
    /// No such host name.
    HostName,
    /// The connection was refused.
    Refused,
}

/// An error of the network, of a parser or of another program. Displays the first cause; `Debug`
/// shows the whole chain.
#[derive(Debug)]
pub struct Cause(pub(super) Box<dyn std::error::Error + Send + Sync>);

impl Cause {
    #[cfg(feature = "registry")]
    pub(crate) fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The outer errors of an HTTP client only say that there was an error.
        let mut innermost: &dyn std::error::Error = &*self.0;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        write!(f, "{innermost}")
    }
}

// Without a source: the first cause is displayed already.
impl std::error::Error for Cause {}
