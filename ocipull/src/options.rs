use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Events, Platform, Progress};

/// How to get an image.
///
/// ```
/// use ocipull::{Credentials, Options, Secret};
///
/// let options = Options::default().retries(2).credentials(Credentials::Basic {
///     username: "reader".to_owned(),
///     password: Secret::new("secret"),
/// });
/// assert_eq!(options.retries, 2);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Speak HTTP to a registry, not HTTPS. Anyone on the way can then see credentials, though not
    /// change an image that was asked for by digest. A registry on this host's loopback interface
    /// (`localhost`, 127.0.0.0/8, `::1`) that speaks HTTP is reached without this option.
    pub plain_http: bool,
    /// Files of certificates (PEM) to trust beside those this host trusts: a private registry's
    /// issuer.
    pub certificates: Vec<PathBuf>,
    /// Which image to take from one for several platforms.
    pub platform: Platform,
    /// Whether layers may be EROFS images: then an index's image that has such layers is preferred.
    /// Default: layers are tars.
    pub erofs: bool,
    /// Whether layers that must not be distributed ("foreign", "non-distributable") are fetched
    /// from the URLs in their descriptors where the source does not have them: over TLS, or plain
    /// HTTP with `plain_http`. Default: they are refused.
    pub foreign_layers: bool,
    /// Where a registry's credentials come from.
    pub credentials: Credentials,
    /// How often a request or a download that breaks off is tried again before it makes progress.
    pub retries: u32,
    /// The maximum size of a decompressed layer in bytes.
    pub max_layer_bytes: u64,
    /// How many times its compressed size a layer may inflate to, once it is over 1 GiB: gzip
    /// reaches 1032, and zstd more on nothing but zeros.
    pub max_layer_ratio: u64,
    /// How long a registry may be silent, before it answers and between two runs of bytes of an
    /// answer.
    pub stall_timeout: Duration,
    /// How many connections fetch a large blob of a registry at once, each a range of it, where the
    /// registry has ranges. As many ranges are held in memory for each blob that is read.
    pub connections: NonZeroUsize,
    /// The bytes of such a range. A blob of up to two of them comes over one connection.
    pub range_bytes: u64,
    /// A folder in which what came of a registry's blobs of more than a range is kept until they
    /// are complete: a download that breaks off, or whose process is killed, goes on there the next
    /// time. On Unix systems only. Default: nothing is kept.
    pub partial_downloads: Option<PathBuf>,
    /// The most bytes that one request uploads; a larger blob is uploaded in several. 0 for no
    /// limit: one request for each blob.
    pub upload_chunk: u64,
    /// Which mirrors there are, and which registries are blocked or insecure.
    pub registries: Registries,
    /// Folders that have a folder for each registry (`HOST[:PORT]`) with certificates to trust
    /// (`*.crt`) and to show (`*.cert` and `*.key`), as docker and podman keep them. Those that do
    /// not exist are passed over.
    pub certificate_folders: Vec<PathBuf>,
    /// The callback for progress: bytes fetched from the source.
    pub progress: Option<Progress>,
    /// Receives an event when a transfer waits, goes on with another mirror, or pushes a blob.
    pub events: Option<Events>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            plain_http: false,
            certificates: Vec::new(),
            platform: Platform::host(),
            erofs: false,
            foreign_layers: false,
            credentials: Credentials::default(),
            retries: 5,
            max_layer_bytes: 128 << 30,
            max_layer_ratio: 2000,
            stall_timeout: Duration::from_secs(30),
            connections: NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN),
            range_bytes: 4 << 20,
            partial_downloads: None,
            upload_chunk: 0,
            registries: Registries::default(),
            certificate_folders: certificate_folders(),
            progress: None,
            events: None,
        }
    }
}

impl Options {
    /// Sets [`plain_http`](field@Self::plain_http).
    #[must_use]
    pub fn plain_http(mut self, plain_http: bool) -> Self {
        self.plain_http = plain_http;
        self
    }

    /// Sets [`certificates`](field@Self::certificates).
    #[must_use]
    pub fn certificates(
        mut self,
        certificates: impl IntoIterator<Item = impl Into<PathBuf>>,
    ) -> Self {
        self.certificates = certificates.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`platform`](field@Self::platform).
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Sets [`erofs`](field@Self::erofs).
    #[must_use]
    pub fn erofs(mut self, erofs: bool) -> Self {
        self.erofs = erofs;
        self
    }

    /// Sets [`foreign_layers`](field@Self::foreign_layers).
    #[must_use]
    pub fn foreign_layers(mut self, foreign_layers: bool) -> Self {
        self.foreign_layers = foreign_layers;
        self
    }

    /// Sets [`credentials`](field@Self::credentials).
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Sets [`retries`](field@Self::retries).
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets [`max_layer_bytes`](field@Self::max_layer_bytes).
    #[must_use]
    pub fn max_layer_bytes(mut self, max_layer_bytes: u64) -> Self {
        self.max_layer_bytes = max_layer_bytes;
        self
    }

    /// Sets [`max_layer_ratio`](field@Self::max_layer_ratio).
    #[must_use]
    pub fn max_layer_ratio(mut self, max_layer_ratio: u64) -> Self {
        self.max_layer_ratio = max_layer_ratio;
        self
    }

    /// Sets [`stall_timeout`](field@Self::stall_timeout).
    #[must_use]
    pub fn stall_timeout(mut self, stall_timeout: Duration) -> Self {
        self.stall_timeout = stall_timeout;
        self
    }

    /// Sets [`connections`](field@Self::connections).
    #[must_use]
    pub fn connections(mut self, connections: NonZeroUsize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets [`range_bytes`](field@Self::range_bytes).
    #[must_use]
    pub fn range_bytes(mut self, range_bytes: u64) -> Self {
        self.range_bytes = range_bytes;
        self
    }

    /// Sets [`partial_downloads`](field@Self::partial_downloads).
    #[must_use]
    pub fn partial_downloads(mut self, partial_downloads: impl Into<Option<PathBuf>>) -> Self {
        self.partial_downloads = partial_downloads.into();
        self
    }

    /// Sets [`upload_chunk`](field@Self::upload_chunk).
    #[must_use]
    pub fn upload_chunk(mut self, upload_chunk: u64) -> Self {
        self.upload_chunk = upload_chunk;
        self
    }

    /// Sets [`registries`](field@Self::registries).
    #[must_use]
    pub fn registries(mut self, registries: Registries) -> Self {
        self.registries = registries;
        self
    }

    /// Sets [`certificate_folders`](field@Self::certificate_folders).
    #[must_use]
    pub fn certificate_folders(
        mut self,
        certificate_folders: impl IntoIterator<Item = impl Into<PathBuf>>,
    ) -> Self {
        self.certificate_folders = certificate_folders.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`progress`](field@Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }

    /// Sets [`events`](field@Self::events).
    #[must_use]
    pub fn events(mut self, events: impl Into<Option<Events>>) -> Self {
        self.events = events.into();
        self
    }

    /// The most bytes a layer of `size` compressed bytes may inflate to.
    pub(crate) fn limit(&self, size: u64) -> u64 {
        const ALWAYS: u64 = 1 << 30;
        self.max_layer_bytes
            .min(size.saturating_mul(self.max_layer_ratio).max(ALWAYS))
    }
}

/// docker's and podman's folders of certificates, the user's own first.
fn certificate_folders() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.map(|home| PathBuf::from(home).join(".config/containers/certs.d"));
    let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    home.into_iter().chain(system).collect()
}

/// Which files in the format of containers-registries.conf(5), version 2, are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Registries {
    /// `$CONTAINERS_REGISTRIES_CONF`, or `~/.config/containers/registries.conf`, or
    /// `/etc/containers/registries.conf`; then the files `*.conf` in `registries.conf.d` beside the
    /// latter two.
    #[default]
    Default,
    /// None of them.
    None,
    /// These; what a later one says of a prefix replaces what an earlier one says.
    Files(Vec<PathBuf>),
}

/// Where a registry's credentials come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// The files that `docker login` and `podman login` write, and the credential helpers these
    /// name: the first of the file `$REGISTRY_AUTH_FILE`, the text `$DOCKER_AUTH_CONFIG`, the files
    /// `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json`,
    /// `$DOCKER_CONFIG/config.json` (or `~/.docker/config.json`) and `~/.dockercfg` that has
    /// credentials for the registry.
    #[default]
    Default,
    /// Such a file.
    File(PathBuf),
    /// Anonymous access.
    Anonymous,
    /// A name and a password, or a token in its place.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
}

/// A password, of any bytes. Does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Returns a secret that `Debug` does not show. Passwords that are not text are sent as they
    /// are, as docker does.
    ///
    /// ```
    /// let secret = ocipull::Secret::new("hunter2");
    /// assert!(!format!("{secret:?}").contains("hunter2"));
    /// ```
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(secret.into())
    }

    #[cfg(feature = "registry")]
    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, which tokens and values of headers are.
    #[cfg(feature = "registry")]
    pub(crate) fn reveal_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
