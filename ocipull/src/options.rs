use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Platform;

/// How to get an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Speak HTTP to a registry, not HTTPS. Anyone on the way can then see credentials, though not change an image that was
    /// asked for by digest.
    pub plain_http: bool,
    /// Files of certificates (PEM) to trust beside those this host trusts: a private registry's issuer.
    pub certificates: Vec<PathBuf>,
    /// Which image to take from one for several platforms.
    pub platform: Platform,
    /// Where a registry's credentials come from.
    pub credentials: Credentials,
    /// How often a request or a download that breaks off is tried again before it makes progress.
    pub retries: u32,
    /// The most bytes a layer may inflate to.
    pub max_layer_bytes: u64,
    /// How many times its compressed size a layer may inflate to, once it is over 1 GiB: gzip reaches 1032, and zstd
    /// more on nothing but zeros.
    pub max_layer_ratio: u64,
    /// Told of every run of bytes fetched.
    pub progress: Option<Progress>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            plain_http: false,
            certificates: Vec::new(),
            platform: Platform::host(),
            credentials: Credentials::default(),
            retries: 5,
            max_layer_bytes: 128 << 30,
            max_layer_ratio: 2000,
            progress: None,
        }
    }
}

impl Options {
    /// The most bytes a layer of `size` compressed bytes may inflate to.
    pub(crate) fn limit(&self, size: u64) -> u64 {
        const ALWAYS: u64 = 1 << 30;
        self.max_layer_bytes
            .min(size.saturating_mul(self.max_layer_ratio).max(ALWAYS))
    }
}

/// Where a registry's credentials come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// The files that `docker login` and `podman login` write: the first of `$REGISTRY_AUTH_FILE`,
    /// `$XDG_RUNTIME_DIR/containers/auth.json` and `$DOCKER_CONFIG/config.json` (or `~/.docker/config.json`) that has an entry
    /// for the registry.
    #[default]
    Default,
    /// Such a file.
    File(PathBuf),
    /// None: anonymous access.
    Anonymous,
    /// A name and a password, or a token in its place.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
}

/// A password. Does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `secret` out of sight.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A function that is told how many more bytes were fetched, from any thread.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(u64) + Send + Sync>);

impl Progress {
    /// Tells `report`.
    pub fn new(report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    pub(crate) fn tell(&self, bytes: u64) {
        (self.0)(bytes);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress(…)")
    }
}
