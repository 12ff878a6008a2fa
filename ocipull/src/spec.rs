//! Manifests and configurations, as the OCI image specification defines them.
//!
//! Members that this crate does not know are ignored; the documents as they are stored are in
//! [`Image::manifest_bytes`](crate::Image::manifest_bytes) and
//! [`Image::config_bytes`](crate::Image::config_bytes).

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The manifest of an image: its configuration and its layers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl ImageManifest {
    /// Returns the media type that the manifest states, if it states one.
    pub fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// Returns the type of an artifact that is not an image.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type
            .as_deref()
            .filter(|text| !text.is_empty())
    }

    /// Returns the descriptor of the configuration.
    pub fn config(&self) -> &Descriptor {
        &self.config
    }

    /// Returns the descriptors of the layers, lowest first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// Returns the descriptor of the manifest that this one is about, as a signature is.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// Returns the annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }
}

/// The name of a document or blob: its digest, its size and its type.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    urls: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<DescriptorPlatform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
}

impl Descriptor {
    /// Returns the media type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Returns the digest as it is written, in whatever algorithm; [`Digest`](crate::Digest) parses
    /// those that this crate can verify.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the addresses from which the blob may be fetched as well.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Returns the annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// Returns the type of an artifact that is not an image.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type
            .as_deref()
            .filter(|text| !text.is_empty())
    }

    pub(crate) fn platform(&self) -> Option<&DescriptorPlatform> {
        // One without any member says as much as none.
        let says = |platform: &&DescriptorPlatform| {
            !platform.os.is_empty() || !platform.architecture.is_empty()
        };
        self.platform.as_ref().filter(says)
    }
}

/// The platform that an index's entry is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct DescriptorPlatform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub(crate) os_version: Option<String>,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) os_features: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// An index of images, or of further indexes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageIndex {
    // Required by the specification, and the same in all of them.
    #[serde(rename = "schemaVersion")]
    _schema_version: u32,
    pub(crate) manifests: Vec<Descriptor>,
}

/// The file `oci-layout`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OciLayout {
    pub(crate) image_layout_version: String,
}

/// The configuration of an image: its platform, how to run it, and its layers' diff IDs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ImageConfiguration {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    architecture: String,
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    os_features: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Config>,
    rootfs: RootFs,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<History>,
}

impl ImageConfiguration {
    /// Returns when the image was made, as RFC 3339 writes it.
    pub fn created(&self) -> Option<&str> {
        self.created.as_deref()
    }

    /// Returns who made the image.
    pub fn author(&self) -> Option<&str> {
        self.author.as_deref()
    }

    /// Returns the architecture, by Go's name (`GOARCH`); empty if the configuration has none.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Returns the operating system, by Go's name (`GOOS`).
    pub fn os(&self) -> &str {
        &self.os
    }

    /// Returns the version of the operating system, which Windows images state.
    pub fn os_version(&self) -> Option<&str> {
        self.os_version.as_deref()
    }

    /// Returns the variant of the architecture, such as `v7` of `arm`.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Returns how to run a container of the image.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// Returns the digests of the uncompressed layers, lowest first.
    pub fn diff_ids(&self) -> &[String] {
        &self.rootfs.diff_ids
    }

    /// Returns how the image was made, step by step.
    pub fn history(&self) -> &[History] {
        &self.history
    }
}

/// How to run a container of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    volumes: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
}

impl Config {
    /// Returns the user, as `NAME|UID[:GROUP|GID]`.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Returns the ports on which the program listens, such as `8080/tcp`, in order of their names.
    pub fn exposed_ports(&self) -> &[String] {
        self.exposed_ports.as_ref().map_or(&[], |keys| &keys.0)
    }

    /// Returns the environment, as `KEY=VALUE`.
    pub fn env(&self) -> &[String] {
        self.env.as_deref().unwrap_or_default()
    }

    /// Returns the program and its first arguments.
    pub fn entrypoint(&self) -> &[String] {
        self.entrypoint.as_deref().unwrap_or_default()
    }

    /// Returns the further arguments, or the program as well if there is no entry point.
    pub fn cmd(&self) -> &[String] {
        self.cmd.as_deref().unwrap_or_default()
    }

    /// Returns the paths at which volumes are mounted, in order of their names.
    pub fn volumes(&self) -> &[String] {
        self.volumes.as_ref().map_or(&[], |keys| &keys.0)
    }

    /// Returns the directory in which the program starts.
    pub fn working_dir(&self) -> Option<&str> {
        self.working_dir.as_deref()
    }

    /// Returns the value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// Returns the labels, in order of their names.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let labels = self.labels.iter().flatten();
        labels.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the signal that asks the program to end, by name or number.
    pub fn stop_signal(&self) -> Option<&str> {
        self.stop_signal.as_deref()
    }
}

/// A step by which an image was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    empty_layer: Option<bool>,
}

impl History {
    /// Returns when the step ran, as RFC 3339 writes it.
    pub fn created(&self) -> Option<&str> {
        self.created.as_deref()
    }

    /// Returns the command of the step.
    pub fn created_by(&self) -> Option<&str> {
        self.created_by.as_deref()
    }

    /// Returns who ran the step.
    pub fn author(&self) -> Option<&str> {
        self.author.as_deref()
    }

    /// Returns the comment.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// Returns whether the step made no layer.
    pub fn empty_layer(&self) -> bool {
        self.empty_layer == Some(true)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<String>,
}

/// The keys of an object whose values are empty: a set, as Go writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = BTreeMap::<String, IgnoredAny>::deserialize(deserializer)?;
        Ok(Self(keys.into_keys().collect()))
    }
}

impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let empty = BTreeMap::<&str, ()>::new();
        serializer.collect_map(self.0.iter().map(|key| (key, &empty)))
    }
}
