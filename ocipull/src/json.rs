//! Manifests, indexes and configurations as other tools write them: with `null` for empty values
//! (Go's nil slices and maps), with missing members, with names of members in another case (which
//! Go does not distinguish), and with a string instead of a list of one.
//!
//! Docker, containerd and the containers tools read these, so this crate does too. A document that
//! follows the specification is parsed unchanged. Others are completed first.

use crate::shape::{self, Shape};
use crate::spec::{ImageConfiguration, ImageIndex, ImageManifest, OciLayout};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The largest document that is completed. Its tree in memory is some 20 times as large.
const MAX_COMPLETED: usize = 4 << 20;

/// A document whose members may be missing, or have their names in another case.
pub(crate) trait Tolerant: DeserializeOwned {
    /// The members of such documents.
    const SHAPE: Shape;

    /// Adds missing members that have an obvious value.
    fn complete(document: &mut Value);
}

/// Parses `bytes`.
pub(crate) fn parse<T: Tolerant>(bytes: &[u8]) -> serde_json::Result<T> {
    let strict = serde_json::from_slice(bytes);
    if bytes.len() > MAX_COMPLETED {
        return strict;
    }
    let Ok(mut document) = serde_json::from_slice::<Value>(bytes)
        .or_else(|_| serde_json::from_str(&replace_invalid_text(bytes)))
    else {
        return strict;
    };
    let renamed = T::SHAPE.fold_names(&mut document);
    if strict.is_ok() && !renamed {
        return strict;
    }
    drop_nulls(&mut document);
    T::complete(&mut document);
    // Only the first error has a line and a column.
    serde_json::from_value(document).map_err(|error| strict.err().unwrap_or(error))
}

/// Returns `bytes` with U+FFFD in place of bytes that are not UTF-8, and of escapes of one half of
/// a surrogate pair. Go's reader does the same.
pub(crate) fn replace_invalid_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut repaired = String::with_capacity(text.len());
    let mut rest = &text[..];
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        repaired.push_str(before);
        let length = match (surrogate(escape), escape.get(6..).and_then(surrogate)) {
            (Some(Half::High), Some(Half::Low)) => 12,
            (Some(_), _) => {
                repaired.push('\u{fffd}');
                rest = &escape[6..];
                continue;
            }
            // The backslash and what it escapes, which may be a backslash.
            (None, _) => escape.chars().take(2).map(char::len_utf8).sum(),
        };
        let (escape, after) = escape.split_at(length);
        repaired.push_str(escape);
        rest = after;
    }
    repaired.push_str(rest);
    repaired
}

/// The half of a surrogate pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// Returns which half of a surrogate pair the escape at the start of `text` is.
fn surrogate(text: &str) -> Option<Half> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xd800..=0xdbff => Some(Half::High),
        0xdc00..=0xdfff => Some(Half::Low),
        _ => None,
    }
}

/// Removes members that are `null`. In maps of the user's own keys, `null` stands for the empty
/// value instead.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, member) in members.iter_mut() {
                let empty = match key.as_str() {
                    "Labels" | "annotations" => json!(""),
                    "ExposedPorts" | "Volumes" => json!({}),
                    _ => {
                        drop_nulls(member);
                        continue;
                    }
                };
                for value in member.as_object_mut().into_iter().flat_map(Map::values_mut) {
                    if value.is_null() {
                        *value = empty.clone();
                    }
                }
            }
            members.retain(|_, member| !member.is_null());
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Adds a member where there is none.
fn default(document: &mut Value, key: &str, value: Value) {
    if let Some(members) = document.as_object_mut() {
        members.entry(key).or_insert(value);
    }
}

/// The media type of a descriptor without one.
fn default_type(descriptor: &mut Value) {
    default(descriptor, "mediaType", json!("application/octet-stream"));
}

impl Tolerant for ImageIndex {
    const SHAPE: Shape = shape::INDEX;

    fn complete(document: &mut Value) {
        default(document, "schemaVersion", json!(2));
        default(document, "manifests", json!([]));
        let manifests = document.get_mut("manifests");
        for descriptor in manifests
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            default_type(descriptor);
            if let Some(platform) = descriptor.get_mut("platform") {
                default(platform, "os", json!(""));
                default(platform, "architecture", json!(""));
            }
        }
    }
}

impl Tolerant for ImageManifest {
    const SHAPE: Shape = shape::MANIFEST;

    fn complete(document: &mut Value) {
        default(document, "schemaVersion", json!(2));
        default(document, "layers", json!([]));
        if let Some(config) = document.get_mut("config") {
            default_type(config);
        }
        let layers = document.get_mut("layers").and_then(Value::as_array_mut);
        for layer in layers.into_iter().flatten() {
            // Its bytes show how it is compressed.
            default(layer, "mediaType", json!(shape::TAR_LAYER));
        }
    }
}

impl Tolerant for ImageConfiguration {
    const SHAPE: Shape = shape::CONFIGURATION;

    fn complete(document: &mut Value) {
        default(document, "os", json!("linux"));
        default(document, "architecture", json!(""));
        default(document, "rootfs", json!({}));
        if let Some(rootfs) = document.get_mut("rootfs") {
            default(rootfs, "type", json!("layers"));
            default(rootfs, "diff_ids", json!([]));
        }
        let Some(config) = document.get_mut("config").and_then(Value::as_object_mut) else {
            return;
        };
        // Docker's `strslice`.
        for key in ["Cmd", "Entrypoint"] {
            if let Some(text) = config.get_mut(key).filter(|value| value.is_string()) {
                *text = json!([text.take()]);
            }
        }
        // Go reads a `null` among strings as the empty string.
        for key in ["Cmd", "Entrypoint", "Env"] {
            let strings = config.get_mut(key).and_then(Value::as_array_mut);
            for string in strings.into_iter().flatten().filter(|item| item.is_null()) {
                *string = json!("");
            }
        }
    }
}

impl Tolerant for OciLayout {
    const SHAPE: Shape = Shape::Object(&[("imageLayoutVersion", Shape::Any)]);

    fn complete(_: &mut Value) {}
}

/// Parses the configuration of an image as [`Image::config`](crate::Image::config) was: one that
/// was stored as [`Image::config_bytes`](crate::Image::config_bytes), whatever wrote it.
///
/// ```
/// let config = ocipull::parse_config(br#"{"os": "linux", "architecture": "arm64"}"#)?;
/// assert_eq!((config.os(), config.architecture()), ("linux", "arm64"));
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
///
/// Bytes that are not JSON, or not an image configuration.
pub fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, serde_json::Error> {
    parse(bytes)
}

/// Parses the manifest of an image as [`Image::manifest`](crate::Image::manifest) was: one that was
/// stored as [`Image::manifest_bytes`](crate::Image::manifest_bytes), whatever wrote it.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manifest = ocipull::parse_manifest(&std::fs::read("manifest.json")?)?;
/// println!("{} layers", manifest.layers().len());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Bytes that are not JSON, or not an image manifest.
pub fn parse_manifest(bytes: &[u8]) -> Result<ImageManifest, serde_json::Error> {
    parse(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_unicode_is_replaced_as_go_does() {
        let text = br#"["\ud83d\ude00", "\ud800", "\udc00x", "\\ud800", "\n\ud8"]"#;
        assert_eq!(
            replace_invalid_text(text),
            "[\"\\ud83d\\ude00\", \"\u{fffd}\", \"\u{fffd}x\", \"\\\\ud800\", \"\\n\\ud8\"]"
        );
        let config = |author: &[u8]| {
            let bytes = [
                br#"{"rootfs":{"diff_ids":[]},"config":{"Labels":{"a":""#,
                author,
                br#""}}}"#,
            ];
            let config = parse_config(&bytes.concat()).unwrap();
            config.config().unwrap().label("a").unwrap().to_owned()
        };
        assert_eq!(config(br"\ud800 \u00e9"), "\u{fffd} \u{e9}");
        assert_eq!(config(b"caf\xe9"), "caf\u{fffd}");
        assert!(parse_config(b"{\"config\":\\ud800}").is_err());
    }

    #[test]
    fn media_types_have_no_case_and_an_empty_artifact_type_is_none() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let descriptor = format!(
            r#"{{"mediaType":"application/vnd.OCI.image.manifest.v1+JSON","digest":"{digest}","size":2,"artifactType":""}}"#
        );
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{descriptor}]}}"#);
        let index: ImageIndex = parse(index.as_bytes()).unwrap();
        let image = &index.manifests[0];
        assert_eq!(
            image.media_type(),
            "application/vnd.oci.image.manifest.v1+json"
        );
        assert_eq!(image.artifact_type(), None);
    }

    #[test]
    fn a_null_among_strings_is_the_empty_string() {
        let config = parse_config(
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
                "config":{"Env":["A=1",null],"Cmd":[null],"Entrypoint":["sh",null]}}"#,
        );
        let config = config.unwrap();
        let config = config.config().unwrap();
        assert_eq!(config.env(), ["A=1", ""]);
        assert_eq!(config.cmd(), [""]);
        assert_eq!(config.entrypoint(), ["sh", ""]);
    }

    #[test]
    fn null_and_missing_members_are_empty() {
        let config = parse_config(
            br#"{"config":{"Env":null,"Cmd":"sh","Entrypoint":null,"Labels":{"a":null,"b":"c"},
                "Volumes":{"/data":null},"ExposedPorts":null},"rootfs":null,"history":null}"#,
        )
        .unwrap();
        let process = config.config().unwrap();
        assert_eq!(process.cmd(), ["sh"]);
        assert_eq!(process.volumes(), ["/data"]);
        assert_eq!(process.label("a"), Some(""));
        assert!(process.exposed_ports().is_empty());
        assert!(config.diff_ids().is_empty());
        assert!(config.history().is_empty());

        let empty = format!(r#"{{"digest":"sha256:{}","size":2}}"#, "a".repeat(64));
        let manifest = format!(r#"{{"config":{empty},"layers":null,"annotations":{{"k":null}}}}"#);
        let manifest = parse_manifest(manifest.as_bytes()).unwrap();
        assert!(manifest.layers().is_empty());

        let index = format!(r#"{{"schemaVersion":2,"manifests":[{empty}],"annotations":null}}"#);
        let index: ImageIndex = parse(index.as_bytes()).unwrap();
        assert_eq!(index.manifests.len(), 1);
        let index: ImageIndex = parse(br#"{"schemaVersion":2,"manifests":null}"#).unwrap();
        assert!(index.manifests.is_empty());
    }

    #[test]
    fn names_of_members_are_read_in_any_case_and_names_of_users_stay() {
        let config = br#"{"OS":"linux","Architecture":"arm64","Config":{"cmd":["a"],"env":["X=y"],
            "labels":{"Key":"1","key":"2"},"EXPOSEDPORTS":{"80/tcp":{}}},
            "RootFS":{"Type":"layers","Diff_IDs":["sha256:x"]},"History":[{"Created_By":"me"}]}"#;
        let config = parse_config(config).unwrap();
        assert_eq!((config.os(), config.architecture()), ("linux", "arm64"));
        assert_eq!(config.diff_ids(), ["sha256:x"]);
        assert_eq!(config.history()[0].created_by(), Some("me"));
        let process = config.config().unwrap();
        assert_eq!(
            (process.cmd(), process.env()),
            (&["a".into()][..], &["X=y".into()][..])
        );
        assert_eq!(process.exposed_ports(), ["80/tcp"]);
        assert_eq!(
            (process.label("Key"), process.label("key")),
            (Some("1"), Some("2"))
        );
        // One that is written rightly counts.
        let both = br#"{"os":"linux","OS":"plan9","architecture":"a","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert_eq!(parse_config(both).unwrap().os(), "linux");

        let digest = format!("sha256:{}", "a".repeat(64));
        let manifest = format!(
            r#"{{"Config":{{"Digest":"{digest}","Size":2}},"LAYERS":[{{"digest":"{digest}","Size":3}}]}}"#
        );
        let manifest = parse_manifest(manifest.as_bytes()).unwrap();
        assert_eq!(manifest.config().digest(), digest);
        let layer = &manifest.layers()[0];
        assert_eq!((layer.size(), layer.media_type()), (3, shape::TAR_LAYER));
    }

    #[test]
    fn of_members_that_occur_twice_the_last_counts() {
        let config = br#"{"os":"linux","os":"plan9","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert_eq!(parse_config(config).unwrap().os(), "plan9");
    }

    #[test]
    fn json_errors_have_a_line() {
        for bad in [
            &b"[]"[..],
            b"{",
            b"",
            br#"{"os":7}"#,
            br#"{"rootfs":[]}"#,
            br#"{"rootfs":{"type":"layers","diff_ids":[null]}}"#,
            br#""text""#,
        ] {
            let error = parse_config(bad).unwrap_err();
            assert!(error.line() > 0 || bad.is_empty(), "{error}");
        }
        assert!(parse_manifest(br#"{"layers":[{}]}"#).is_err());
    }
}
