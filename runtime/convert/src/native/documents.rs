//! Writes the configuration, manifest and index of native images.

use std::collections::BTreeMap;

use ocipull::{Copied, Digest, EROFS_FEATURE};
use serde_json::{Map, Value, json};

use super::image_spec;
use super::merged::MERGED;
use super::options::Format;
use super::wrap::Blob;
use crate::error::{Error, Result};

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The annotation with an index entry's relation to the image that it refers to, as BuildKit writes
/// it.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The configuration of an artifact without one, as the specification requires.
pub(super) const EMPTY: &[u8] = b"{}";

/// A manifest, and its descriptor for an index.
pub(super) struct Manifest {
    pub(super) bytes: Vec<u8>,
    platform: Value,
    /// The manifest of the artifact with the merged metadata.
    pub(super) merged: Option<Vec<u8>>,
}

impl Manifest {
    /// Adds an artifact with the merged metadata.
    pub(super) fn beside(mut self, merged: &Blob) -> Self {
        let artifact = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": MERGED,
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": Digest::sha256(EMPTY).as_str(),
                "size": EMPTY.len(),
            },
            "layers": [merged.descriptor()],
            "subject": entry(&self.bytes),
        });
        self.merged = Some(artifact.to_string().into_bytes());
        self
    }
}

/// Returns the descriptor of a manifest.
fn entry(manifest: &[u8]) -> Value {
    json!({
        "mediaType": MANIFEST, "digest": Digest::sha256(manifest).as_str(), "size": manifest.len(),
    })
}

/// Returns the source's configuration with other layers, and its platform. `groups` says how many
/// of the source's layers each new layer replaces.
pub(super) fn config(bytes: &[u8], layers: &[Blob], groups: &[usize]) -> Result<(Vec<u8>, Value)> {
    let parsed: serde_json::Result<Map<String, Value>> = serde_json::from_slice(bytes);
    let mut config = parsed.map_err(|source| {
        Error::Pull(ocipull::Error::Json {
            document: ocipull::Document::Config,
            digest: Digest::sha256(bytes),
            source,
        })
    })?;
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    config.insert(
        "rootfs".to_owned(),
        json!({"type": "layers", "diff_ids": diff_ids}),
    );
    let features = config.entry("os.features").or_insert_with(|| json!([]));
    match features {
        Value::Array(features) if features.iter().any(|f| f == EROFS_FEATURE) => {}
        Value::Array(features) => features.push(json!(EROFS_FEATURE)),
        other => *other = json!([EROFS_FEATURE]),
    }
    if groups.iter().any(|&layers| layers != 1)
        && let Some(Value::Array(history)) = config.get_mut("history")
    {
        regroup(history, groups);
    }
    let mut platform = Map::new();
    for member in ["architecture", "os", "os.version", "os.features", "variant"] {
        if let Some(value) = config.get(member)
            && !value.is_null()
            && value != ""
        {
            platform.insert(member.to_owned(), value.clone());
        }
    }
    Ok((json!(config).to_string().into_bytes(), json!(platform)))
}

/// Keeps one history entry for each layer, as the specification requires: for a group, the last. A
/// history that does not match the source's layers is left unchanged.
fn regroup(history: &mut [Value], groups: &[usize]) {
    let mut made: Vec<_> = history
        .iter_mut()
        .filter(|entry| entry["empty_layer"] != json!(true))
        .filter_map(Value::as_object_mut)
        .collect();
    if made.len() != groups.iter().sum::<usize>() {
        return;
    }
    let mut made = made.iter_mut();
    for &layers in groups {
        for entry in made.by_ref().take(layers.saturating_sub(1)) {
            entry.insert("empty_layer".to_owned(), json!(true));
        }
        made.next();
    }
}

/// Returns the descriptors of the layers, lowest first.
pub(super) fn layers(blobs: &[Blob], format: Format) -> Value {
    let mut layers: Vec<_> = blobs.iter().map(Blob::descriptor).collect();
    if format == Format::ImageSpec
        && let Some((_, lower)) = layers.split_last_mut()
    {
        for layer in lower {
            layer["annotations"][image_spec::ROLE] = json!(image_spec::OVERLAY_LOWER);
        }
    }
    json!(layers)
}

/// Returns the manifest of an image whose configuration is `config`.
pub(super) fn manifest(
    config: &[u8],
    platform: Value,
    layers: Value,
    notes: &Value,
    more_notes: &BTreeMap<String, String>,
) -> Manifest {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG, "digest": Digest::sha256(config).as_str(), "size": config.len(),
        },
        "layers": layers,
    });
    let mut annotations = notes.as_object().cloned().unwrap_or_default();
    // Some sources write `null` for a missing annotation; the specification allows only strings.
    annotations.retain(|_, note| note.is_string());
    annotations.extend(
        more_notes
            .iter()
            .map(|(key, value)| (key.clone(), json!(value))),
    );
    if !annotations.is_empty() {
        manifest["annotations"] = json!(annotations);
    }
    Manifest {
        bytes: manifest.to_string().into_bytes(),
        platform,
        merged: None,
    }
}

/// Returns an index of the source's own manifests followed by the native ones and their artifacts.
pub(super) fn index(kept: Option<&Copied>, native: &[Manifest]) -> Vec<u8> {
    let parsed: Option<Map<String, Value>> =
        kept.and_then(|kept| serde_json::from_slice(&kept.bytes).ok());
    let mut index = Map::new();
    let mut entries = Vec::new();
    match (kept, parsed) {
        (Some(_), Some(mut own)) if own.contains_key("manifests") => {
            if let Some(Value::Array(own)) = own.remove("manifests") {
                // Native images of an earlier conversion are replaced.
                let replaced = |entry: &Value| is_native(entry) || is_merged(entry);
                entries.extend(own.into_iter().filter(|entry| !replaced(entry)));
            }
            index = own;
        }
        (Some(kept), _) => {
            let mut entry = json!({
                "mediaType": kept.media_type, "digest": kept.digest.as_str(), "size": kept.bytes.len(),
            });
            // The same platform, without the feature.
            if let Some(native) = native.first() {
                entry["platform"] = without_feature(&native.platform);
            }
            entries.push(entry);
        }
        (None, _) => {}
    }
    for manifest in native {
        let mut native = entry(&manifest.bytes);
        let digest = native["digest"].clone();
        native["platform"] = manifest.platform.clone();
        entries.push(native);
        if let Some(merged) = &manifest.merged {
            let mut merged = entry(merged);
            // As BuildKit does for attestations: clients skip platforms that they do not know. With
            // its `artifactType` here, old versions of skopeo (1.9) do not copy the index.
            merged["platform"] = json!({"architecture": "unknown", "os": "unknown"});
            merged["annotations"] = json!({
                "vnd.docker.reference.digest": digest,
                (REFERENCE_TYPE): MERGED,
            });
            entries.push(merged);
        }
    }
    index.insert("schemaVersion".to_owned(), json!(2));
    index.insert("mediaType".to_owned(), json!(INDEX));
    index.insert("manifests".to_owned(), json!(entries));
    json!(index).to_string().into_bytes()
}

fn is_merged(entry: &Value) -> bool {
    entry["annotations"][REFERENCE_TYPE] == MERGED
}

fn is_native(entry: &Value) -> bool {
    let features = entry["platform"]["os.features"].as_array();
    features.is_some_and(|features| features.iter().any(|f| f == EROFS_FEATURE))
}

fn without_feature(platform: &Value) -> Value {
    let mut platform = platform.clone();
    if let Some(Value::Array(features)) = platform.get_mut("os.features") {
        features.retain(|f| f != EROFS_FEATURE);
        if features.is_empty()
            && let Some(platform) = platform.as_object_mut()
        {
            platform.remove("os.features");
        }
    }
    platform
}
