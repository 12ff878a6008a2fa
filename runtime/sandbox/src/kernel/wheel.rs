//! The Python package that contains libkrunfw.

/// A package that contains libkrunfw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Package {
    /// Its name and version.
    pub name: &'static str,
    /// The approximate size of the download in bytes.
    pub bytes: u64,
}

/// The package of PyPI that is used. It belongs to a project that also boots containers with
/// libkrunfw.
pub const PACKAGE: Package = Package {
    name: "microsandbox 0.7.11",
    bytes: 48 << 20,
};

/// The package, with the hashes of its wheels for Linux on x86-64 and arm64: other files are
/// rejected.
pub(super) const REQUIREMENTS: &str = include_str!("requirements.txt");
