//! Platforms, and the choice of an index's entry for one.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::spec::{Descriptor, ImageConfiguration};

/// An operating system and an architecture, by Go's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `GOOS`, such as `linux`.
    pub os: String,
    /// `GOARCH`, such as `amd64`.
    pub architecture: String,
    /// The architecture's variant, such as `v7` of `arm`. `None` takes any.
    pub variant: Option<String>,
}

impl Platform {
    /// Returns Linux on this host's architecture: the platform of virtual machines here, whatever
    /// system the host runs.
    ///
    /// ```
    /// use ocipull::Platform;
    ///
    /// let host = Platform::host();
    /// assert_eq!(host.os, "linux");
    /// assert!(host.runs_on(&host));
    /// ```
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// Returns the platform in an image's configuration; `None` if the configuration has no
    /// architecture.
    pub fn of_config(config: &ImageConfiguration) -> Option<Self> {
        let platform = Self {
            os: config.os().to_owned(),
            architecture: config.architecture().to_owned(),
            variant: config
                .variant()
                .filter(|variant| !variant.is_empty())
                .map(str::to_owned),
        };
        (!platform.architecture.is_empty()).then_some(platform)
    }

    /// The platform that an index says `descriptor` is for.
    pub(crate) fn of(descriptor: &Descriptor) -> Option<Self> {
        let platform = descriptor.platform()?;
        let platform = Self {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        };
        // Some writers have a platform without a word in it.
        let empty = platform.os.is_empty() && platform.architecture.is_empty();
        (!empty).then_some(platform)
    }

    /// Returns whether an image for this platform runs on a machine of platform `machine`.
    pub fn runs_on(&self, machine: &Self) -> bool {
        self.fitness(machine).is_some()
    }

    /// How well an image for `self` suits a machine that is `wanted`; `None` where it does not run
    /// there at all.
    fn fitness(&self, wanted: &Self) -> Option<u8> {
        if (&self.os, &self.architecture) != (&wanted.os, &wanted.architecture) {
            return None;
        }
        match (self.variant.as_deref(), wanted.variant.as_deref()) {
            (ours, Some(theirs)) if ours == Some(theirs) => Some(3),
            // Every arm64 processor is at least v8, and images say so or do not.
            (None, Some("v8")) | (Some("v8"), None) if self.architecture == "arm64" => Some(2),
            (None, None) => Some(3),
            (None, Some(_)) => Some(1),
            // A baseline comes before what needs a newer processor.
            (Some(_), None) => Some(0),
            (Some(_), Some(_)) => None,
        }
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::host()
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<_> = text.split('/').map(str::to_ascii_lowercase).collect();
        let plain = |part: &String| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        };
        let invalid = || Error::InvalidPlatform {
            text: text.to_owned(),
        };
        if !parts.iter().all(plain) {
            return Err(invalid());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [architecture] if is_architecture(architecture) => ("linux", architecture, None),
            [os, architecture] => (os.as_str(), architecture, None),
            [os, architecture, variant] => (os.as_str(), architecture, Some(variant)),
            _ => return Err(invalid()),
        };
        let (architecture, implied) = normalized(architecture);
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(String::as_str).or(implied).map(str::to_owned),
        })
    }
}

/// Go's name of an architecture that has others, and the variant that the other name means, as
/// containerd has them.
fn normalized(architecture: &str) -> (&str, Option<&str>) {
    match architecture {
        "x86_64" | "x86-64" => ("amd64", None),
        "i386" | "i486" | "i586" | "i686" | "x86" => ("386", None),
        "aarch64" => ("arm64", None),
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v6")),
        other => (other, None),
    }
}

/// Whether a word alone names an architecture rather than an operating system.
fn is_architecture(word: &str) -> bool {
    let known = [
        "386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x",
    ];
    known.contains(&normalized(word).0)
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .iter()
            .try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// The descriptor for `wanted` among those of an index, the first of the best; without any platform
/// given, the only one.
///
/// Among equals, one whose layers are EROFS images comes first with `erofs`, and last without.
pub(crate) fn select<'a>(
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
        let picked = select(&there, &wanted.parse().expect("a platform"), false).ok()?;
        there
            .iter()
            .position(|descriptor| std::ptr::eq(descriptor, picked))
    }

    #[test]
    fn other_names_of_a_platform_are_understood() {
        for (text, expected) in [
            ("amd64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/x86_64", "linux/amd64"),
            ("LINUX/AMD64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("armhf", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
        ] {
            let platform: Platform = text.parse().expect("a platform");
            assert_eq!(platform.to_string(), expected);
        }
        for text in ["linux", "windows", "", "linux/", "a/b/c/d"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_platform_without_a_word_is_none() {
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
                let picked = select(&there, &wanted, erofs).expect("one of them");
                assert_eq!(is_erofs(picked), erofs);
            }
        }
        // The right platform matters more than the form.
        let there = [native("linux/arm64"), descriptor("linux/amd64")];
        assert!(!is_erofs(select(&there, &wanted, true).expect("one")));
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
}
