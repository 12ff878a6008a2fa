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
    ///
    /// ```
    /// use ocipull::{Options, Platform};
    ///
    /// let options = Options::default().platform(Platform::new("linux", "arm64"));
    /// assert_eq!(options.platform.to_string(), "linux/arm64");
    /// ```
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

    /// Returns whether an image for this platform runs on a machine of platform `machine`: one for
    /// the same variant of the architecture, or for an older one, as containerd has it. An image
    /// that does not say its variant is taken to run.
    ///
    /// ```
    /// use ocipull::Platform;
    ///
    /// let image = Platform::new("linux", "arm").variant("v6");
    /// assert!(image.runs_on(&Platform::new("linux", "arm").variant("v8")));
    /// assert!(!image.runs_on(&Platform::new("linux", "arm").variant("v5")));
    /// ```
    pub fn runs_on(&self, machine: &Self) -> bool {
        self.fitness(machine).is_some()
    }

    /// How well an image for `self` fits a machine of platform `wanted`; `None` if it does not run
    /// there.
    pub(crate) fn fitness(&self, wanted: &Self) -> Option<u8> {
        let (ours, theirs) = (Canonical::of(self), Canonical::of(wanted));
        if (&ours.os, &ours.architecture) != (&theirs.os, &theirs.architecture) {
            return None;
        }
        let behind = match (&ours.variant, &theirs.variant) {
            (None, None) => Some(0),
            (Some(ours), Some(wanted)) => variants_behind(&theirs.architecture, ours, wanted),
            _ => None,
        };
        match behind {
            Some(behind) => Some(u8::MAX.saturating_sub(behind)),
            // It may be for any variant.
            None if self.variant.is_none() => Some(1),
            // A machine of an unknown variant may be new enough.
            None if wanted.variant.is_none() => Some(0),
            None => None,
        }
    }
}

/// A platform in the one spelling that is compared, as containerd normalises it.
struct Canonical {
    os: String,
    architecture: String,
    /// `None` where the architecture has no variant that goes without saying.
    variant: Option<String>,
}

impl Canonical {
    fn of(platform: &Platform) -> Self {
        let os = match platform.os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let name = platform.architecture.to_ascii_lowercase();
        let (architecture, implied) = normalized(&name);
        let said = platform.variant.as_deref().map(str::to_ascii_lowercase);
        let variant = match said.filter(|variant| !variant.is_empty()) {
            Some(variant) if variant.starts_with(|c: char| c.is_ascii_digit()) => {
                Some(format!("v{variant}"))
            }
            Some(variant) => Some(variant),
            None => match architecture {
                "amd64" => Some("v1"),
                "arm64" => Some("v8"),
                "arm" => Some(implied.unwrap_or("v7")),
                _ => None,
            }
            .map(str::to_owned),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant,
        }
    }
}

/// How many variants of an architecture an image for `ours` is behind `wanted`, on which it runs;
/// `None` if it does not run there.
fn variants_behind(architecture: &str, ours: &str, wanted: &str) -> Option<u8> {
    if ours == wanted {
        return Some(0);
    }
    let (ours, wanted) = (version(ours)?, version(wanted)?);
    match (architecture, ours, wanted) {
        ("amd64", (ours, 0), (wanted, 0)) => wanted.checked_sub(ours),
        // Before v5 the variants differ in more than what they add.
        ("arm", (ours @ 5.., 0), (wanted, 0)) => wanted.checked_sub(ours),
        ("arm64", (8, ours), (8, wanted)) | ("arm64", (9, ours), (9, wanted)) => {
            wanted.checked_sub(ours)
        }
        // v9.0 has all of v8.5, v9.1 all of v8.6, and so on.
        ("arm64", (8, ours), (9, wanted)) => wanted
            .checked_add(5)?
            .checked_sub(ours)?
            .checked_add(wanted)?
            .checked_add(1),
        _ => None,
    }
}

/// The numbers of a variant: (8, 2) of `v8.2`.
fn version(variant: &str) -> Option<(u8, u8)> {
    let numbers = variant.strip_prefix('v')?;
    let (major, minor) = numbers.split_once('.').unwrap_or((numbers, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
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

    #[test]
    fn an_image_for_an_older_variant_runs_and_the_newest_of_these_is_the_best() {
        // The best first, then what does not run.
        for (machine, run, do_not) in [
            ("linux/arm/v8", "v8 v7 v6 v5", "v4 v9"),
            ("linux/arm/v7", "v7 v6 v5", "v4 v8"),
            ("linux/arm/v6", "v6 v5", "v4 v7 v8"),
            ("linux/arm/v5", "v5", "v4 v6"),
            ("linux/arm/v4", "v4", "v5 v6"),
            ("linux/armhf", "v7 v6 v5", "v8"),
            ("linux/amd64/v3", "v3 v2 v1", "v4"),
            ("linux/amd64/v1", "v1", "v2 v3 v4"),
            ("linux/arm64/v8", "v8", "v8.1 v9"),
            ("linux/arm64/v8.2", "v8.2 v8.1 v8", "v8.3 v9"),
            (
                "linux/arm64/v9",
                "v9 v8.5 v8.4 v8.3 v8.2 v8.1 v8",
                "v8.6 v9.1",
            ),
            ("linux/arm64/v9.1", "v9.1 v9 v8.6 v8.5 v8", "v8.7 v9.2"),
            ("linux/riscv64/rva23", "rva23", "rva20 v1"),
        ] {
            let machine: Platform = machine.parse().expect("a platform");
            let fitness = |variant: &str| {
                let image = Platform::new("linux", machine.architecture.as_str());
                image.variant(variant).fitness(&machine)
            };
            let fit: Vec<_> = run.split(' ').map(fitness).collect();
            assert!(fit.iter().all(Option::is_some), "{machine}: {fit:?}");
            assert!(fit.is_sorted_by(|a, b| a > b), "{machine}: {fit:?}");
            for variant in do_not.split(' ') {
                assert_eq!(fitness(variant), None, "{variant} on {machine}");
            }
        }
    }

    #[test]
    fn a_variant_that_goes_without_saying_is_the_same_as_one_that_is_said() {
        let fitness = |image: &str, machine: &str| {
            let (image, machine) = (image.parse::<Platform>(), machine.parse::<Platform>());
            image
                .expect("a platform")
                .fitness(&machine.expect("a platform"))
        };
        for (a, b) in [
            ("linux/arm64", "linux/arm64/v8"),
            ("linux/arm64/8", "linux/arm64/v8"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/amd64", "linux/amd64/v1"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
        ] {
            assert_eq!(fitness(a, b), Some(u8::MAX), "{a} {b}");
            assert_eq!(fitness(b, a), Some(u8::MAX), "{b} {a}");
        }
        // What an index or a configuration says is not parsed.
        let odd = Platform::new("Linux", "x86_64");
        assert!(odd.runs_on(&Platform::new("linux", "amd64")));
        for (image, machine) in [
            ("linux/386", "linux/amd64"),
            ("linux/arm/v7", "linux/arm64"),
            ("windows/amd64", "linux/amd64"),
        ] {
            assert_eq!(fitness(image, machine), None, "{image} {machine}");
        }
        // An old configuration does not say the variant that its index says.
        assert!(fitness("linux/arm", "linux/arm/v6") < fitness("linux/arm/v5", "linux/arm/v6"));
        assert!(fitness("linux/arm", "linux/arm/v6").is_some());
    }
}
