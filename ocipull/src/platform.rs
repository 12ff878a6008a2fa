//! Platforms of images.

use std::fmt;

use crate::spec::{Descriptor, ImageConfiguration};

/// An operating system and an architecture, by Go's names.
///
/// ```
/// use ocipull::Platform;
///
/// let raspberry = Platform::new("linux", "arm").variant("v7");
/// assert_eq!(raspberry.to_string(), "linux/arm/v7");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Platform {
    /// `GOOS`, such as `linux`.
    pub os: String,
    /// `GOARCH`, such as `amd64`.
    pub architecture: String,
    /// The architecture's variant, such as `v7` of `arm`. `None` takes any.
    pub variant: Option<String>,
}

impl Platform {
    /// Returns the platform of an operating system and an architecture, without a variant.
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: None,
        }
    }

    /// Sets [`variant`](field@Self::variant).
    #[must_use]
    pub fn variant(mut self, variant: impl Into<String>) -> Self {
        self.variant = Some(variant.into());
        self
    }

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
        // Some writers store a platform with empty names.
        let empty = platform.os.is_empty() && platform.architecture.is_empty();
        (!empty).then_some(platform)
    }

    /// Returns whether an image for this platform runs on a machine of platform `machine`.
    pub fn runs_on(&self, machine: &Self) -> bool {
        self.fitness(machine).is_some()
    }

    /// How well an image for `self` fits a machine of platform `wanted`; `None` if it does not run
    /// there.
    pub(crate) fn fitness(&self, wanted: &Self) -> Option<u8> {
        if (&self.os, &self.architecture) != (&wanted.os, &wanted.architecture) {
            return None;
        }
        match (self.variant.as_deref(), wanted.variant.as_deref()) {
            (ours, Some(theirs)) if ours == Some(theirs) => Some(3),
            // Every arm64 processor is at least v8, whether the image says so or not.
            (None, Some("v8")) | (Some("v8"), None) if self.architecture == "arm64" => Some(2),
            (None, None) => Some(3),
            (None, Some(_)) => Some(1),
            // A baseline image comes before one that needs a newer processor.
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

impl Platform {
    /// Parses a platform; `None` if `text` is not a valid one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<_> = text.split('/').map(str::to_ascii_lowercase).collect();
        let plain = |part: &String| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        };
        if !parts.iter().all(plain) {
            return None;
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [architecture] if is_architecture(architecture) => ("linux", architecture, None),
            [os, architecture] => (os.as_str(), architecture, None),
            [os, architecture, variant] => (os.as_str(), architecture, Some(variant)),
            _ => return None,
        };
        let (architecture, implied) = normalized(architecture);
        Some(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(String::as_str).or(implied).map(str::to_owned),
        })
    }
}

/// Go's name of an architecture, and the variant that an alternative name implies, as in
/// containerd.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
