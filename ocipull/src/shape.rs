//! The names of the members of documents, which Go's reader takes in any case.

use serde_json::{Map, Value};

/// The media type of a layer that has none.
pub(crate) const TAR_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What a document's value may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// A value, or an object whose keys are the user's.
    Any,
    /// A media type, which has no case (RFC 6838).
    MediaType,
    /// An object with these members.
    Object(&'static [(&'static str, Shape)]),
    /// A list of such values.
    List(&'static Shape),
}

use Shape::{Any, List, MediaType, Object};

const PLATFORM: Shape = Object(&[
    ("architecture", Any),
    ("os", Any),
    ("os.version", Any),
    ("os.features", Any),
    ("variant", Any),
]);

const DESCRIPTOR: Shape = Object(&[
    ("mediaType", MediaType),
    ("digest", Any),
    ("size", Any),
    ("urls", Any),
    ("annotations", Any),
    ("platform", PLATFORM),
    ("artifactType", Any),
]);

/// An index of images.
pub(crate) const INDEX: Shape = Object(&[
    ("schemaVersion", Any),
    ("mediaType", MediaType),
    ("manifests", List(&DESCRIPTOR)),
    ("annotations", Any),
]);

/// The manifest of an image.
pub(crate) const MANIFEST: Shape = Object(&[
    ("schemaVersion", Any),
    ("mediaType", MediaType),
    ("artifactType", Any),
    ("config", DESCRIPTOR),
    ("layers", List(&DESCRIPTOR)),
    ("subject", DESCRIPTOR),
    ("annotations", Any),
]);

/// What manifests, of images and of other artifacts, have of blobs.
pub(crate) const BLOBS: Shape = Object(&[
    ("config", DESCRIPTOR),
    ("layers", List(&DESCRIPTOR)),
    ("blobs", List(&DESCRIPTOR)),
]);

/// The members that distinguish manifests from indexes.
pub(crate) const KIND: Shape = Object(&[
    ("schemaVersion", Any),
    ("mediaType", MediaType),
    ("manifests", Any),
    ("config", Any),
    ("layers", Any),
]);

/// The configuration of an image.
pub(crate) const CONFIGURATION: Shape = Object(&[
    ("created", Any),
    ("author", Any),
    ("architecture", Any),
    ("os", Any),
    ("os.version", Any),
    ("os.features", Any),
    ("variant", Any),
    (
        "config",
        Object(&[
            ("User", Any),
            ("ExposedPorts", Any),
            ("Env", Any),
            ("Entrypoint", Any),
            ("Cmd", Any),
            ("Volumes", Any),
            ("WorkingDir", Any),
            ("Labels", Any),
            ("StopSignal", Any),
        ]),
    ),
    ("rootfs", Object(&[("type", Any), ("diff_ids", Any)])),
    (
        "history",
        List(&Object(&[
            ("created", Any),
            ("author", Any),
            ("created_by", Any),
            ("comment", Any),
            ("empty_layer", Any),
        ])),
    ),
]);

impl Shape {
    /// Gives members the names that they have here, and media types in lower case. A member that is
    /// there under its own name stays. Returns whether anything changed.
    pub(crate) fn fold_names(self, value: &mut Value) -> bool {
        match (self, value) {
            (MediaType, Value::String(text)) => {
                let folded = text.bytes().any(|byte| byte.is_ascii_uppercase());
                text.make_ascii_lowercase();
                folded
            }
            (Object(members), Value::Object(object)) => fold_object(members, object),
            (List(item), Value::Array(items)) => items
                .iter_mut()
                .fold(false, |any, value| item.fold_names(value) | any),
            _ => false,
        }
    }
}

fn fold_object(members: &[(&str, Shape)], object: &mut Map<String, Value>) -> bool {
    let mut renamed = false;
    let others: Vec<String> = object
        .keys()
        .filter(|key| members.iter().all(|(name, _)| name != key))
        .cloned()
        .collect();
    for key in others {
        let known = members
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&key));
        if let Some((name, _)) = known
            && !object.contains_key(*name)
            && let Some(value) = object.remove(&key)
        {
            object.insert((*name).to_owned(), value);
            renamed = true;
        }
    }
    for (name, shape) in members {
        if let Some(value) = object.get_mut(*name) {
            renamed |= shape.fold_names(value);
        }
    }
    renamed
}
