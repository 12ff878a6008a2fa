//! The choice of an index's entry for a platform.

use crate::spec::Descriptor;
use crate::{Error, Platform};

/// The descriptor for `wanted` among those of an index, the first of the best; without any platform
/// given, the only one.
///
/// Among equals, one whose layers are EROFS images comes first with `erofs`, and last without.
pub(crate) fn for_platform<'a>(
    descriptors: &'a [Descriptor],
    wanted: &Platform,
    erofs: bool,
) -> Result<&'a Descriptor, Error> {
    let images: Vec<_> = descriptors
        .iter()
        .filter(|descriptor| !is_attestation(descriptor))
        .collect();
    let best = images
        .iter()
        .filter_map(|image| {
            let fitness = Platform::of(image)?.fitness(wanted)?;
            Some(((fitness, is_erofs(image) == erofs), *image))
        })
        .reduce(|best, next| if next.0 > best.0 { next } else { best });
    if let Some((_, image)) = best {
        return Ok(image);
    }
    match images.as_slice() {
        // Nothing to choose from: the configuration says what it is for.
        [only] if only.platform().is_none() => Ok(only),
        _ => Err(Error::NoPlatform {
            wanted: wanted.clone(),
            available: images
                .iter()
                .filter_map(|image| Platform::of(image))
                .collect(),
        }),
    }
}

/// Whether an index says that the image's layers are EROFS images.
pub(crate) fn is_erofs(descriptor: &Descriptor) -> bool {
    let features = descriptor.platform().map(|platform| &platform.os_features);
    features.is_some_and(|features| features.iter().any(|f| f == crate::EROFS_FEATURE))
}

/// Whether `descriptor` is an attestation about an image, as BuildKit puts into indexes.
pub(crate) fn is_attestation(descriptor: &Descriptor) -> bool {
    let unknown = Platform::of(descriptor)
        .is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown");
    let annotated = descriptor
        .annotations()
        .contains_key("vnd.docker.reference.type");
    unknown || annotated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(platform: &str) -> Descriptor {
        let hex = "a".repeat(64);
        let mut json = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{hex}"),
            "size": platform.len(),
        });
        if let Ok(platform) = platform.parse::<Platform>() {
            json["platform"] = serde_json::json!({
                "os": platform.os, "architecture": platform.architecture,
            });
            if let Some(variant) = platform.variant {
                json["platform"]["variant"] = variant.into();
            }
        }
        serde_json::from_value(json).expect("a descriptor")
    }

    fn pick(there: &[&str], wanted: &str) -> Option<usize> {
        let there: Vec<_> = there.iter().map(|platform| descriptor(platform)).collect();
        let picked = for_platform(&there, &wanted.parse().expect("a platform"), false).ok()?;
        there
            .iter()
            .position(|descriptor| std::ptr::eq(descriptor, picked))
    }

    #[test]
    fn the_image_for_the_platform_is_picked() {
        let there = [
            "unknown/unknown",
            "linux/arm/v7",
            "linux/amd64",
            "linux/arm64/v8",
        ];
        assert_eq!(pick(&there, "linux/amd64"), Some(2));
        assert_eq!(pick(&there, "linux/arm64"), Some(3));
        assert_eq!(pick(&there, "linux/arm/v7"), Some(1));
        assert_eq!(pick(&there, "linux/arm/v6"), None);
        assert_eq!(pick(&there, "linux/arm/v8"), Some(1));
        let arms = ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"];
        assert_eq!(pick(&arms, "linux/arm/v8"), Some(1));
        assert_eq!(pick(&arms, "linux/arm/v6"), Some(2));
        assert_eq!(
            pick(&["linux/amd64", "linux/amd64/v2"], "linux/amd64/v3"),
            Some(1)
        );
        assert_eq!(pick(&there, "windows/amd64"), None);
        assert_eq!(
            pick(&["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
            Some(1)
        );
    }

    #[test]
    fn of_equal_images_the_erofs_native_one_is_picked_where_it_is_understood() {
        let native = |platform| {
            let mut json = serde_json::to_value(descriptor(platform)).expect("JSON");
            json["platform"]["os.features"] = serde_json::json!(["erofs"]);
            serde_json::from_value(json).expect("a descriptor")
        };
        let wanted = "linux/amd64".parse().expect("a platform");
        for there in [
            [descriptor("linux/amd64"), native("linux/amd64")],
            [native("linux/amd64"), descriptor("linux/amd64")],
        ] {
            for erofs in [true, false] {
                let picked = for_platform(&there, &wanted, erofs).expect("one of them");
                assert_eq!(is_erofs(picked), erofs);
            }
        }
        // A better platform comes before an EROFS-native image.
        let there = [native("linux/arm64"), descriptor("linux/amd64")];
        assert!(!is_erofs(for_platform(&there, &wanted, true).expect("one")));
    }

    #[test]
    fn attestations_are_not_images() {
        assert_eq!(pick(&["unknown/unknown"], "unknown/unknown"), None);
        assert_eq!(pick(&["unknown/unknown", ""], "linux/amd64"), Some(1));
    }

    #[test]
    fn the_only_image_needs_no_platform() {
        assert_eq!(pick(&[""], "linux/amd64"), Some(0));
        assert_eq!(pick(&["", ""], "linux/amd64"), None);
    }

    #[test]
    fn platform_with_empty_names_is_read_as_missing() {
        let mut json = serde_json::to_value(descriptor("linux/amd64")).expect("json");
        for empty in [
            serde_json::json!({}),
            serde_json::json!({"os": "", "architecture": ""}),
        ] {
            json["platform"] = empty;
            let descriptor = serde_json::from_value(json.clone()).expect("a descriptor");
            assert_eq!(Platform::of(&descriptor), None);
        }
    }
}
