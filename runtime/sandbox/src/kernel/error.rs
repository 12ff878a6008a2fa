//! Errors of installing kernels.

use std::io;
use std::path::{Path, PathBuf};

use blockbox_vmm::kernel::LIBRARY;
use blockbox_vmm::{Arch, VmmError};
use ocipull::Digest;

use super::wheel::PACKAGE;

/// Why no kernel was installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be written.
    #[error(transparent)]
    Store(#[from] blockbox_store::Error),
    /// A download or an image failed.
    #[error(transparent)]
    Pull(#[from] ocipull::Error),
    /// The file holds no kernel that boots on this host.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The file cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file does not have the given digest.
    #[error("{place}: its digest is {actual}, not {expected}")]
    Digest {
        /// The file or address.
        place: String,
        /// The given digest.
        expected: Digest,
        /// The digest of the file.
        actual: Digest,
    },
    /// The digest of a download, or of an image that came without TLS, was neither given nor
    /// confirmed.
    #[error("{place}: the digest {digest} was not confirmed")]
    NotConfirmed {
        /// The address, or the image.
        place: String,
        /// The digest of the file, or of the image's manifest.
        digest: Digest,
    },
    /// There is no libkrunfw in the file or image.
    #[error("{place}: no {LIBRARY} in it")]
    NoLibrary {
        /// The file, address or image.
        place: String,
    },
    /// The file is not of a supported format.
    #[error("{place}: not a {LIBRARY}, nor a tar, zip or wheel with one: {reason}")]
    Format {
        /// The file, address or image.
        place: String,
        /// The reason.
        reason: String,
    },
    /// There is no known package with a kernel for this kind of host.
    #[error("no package with a guest kernel is known for {os} {arch}", os = std::env::consts::OS)]
    NoPackage {
        /// The architecture of the machines.
        arch: Arch,
    },
    /// The Python index lists no file of the package for the architecture with one of the known
    /// digests.
    #[error("{address}: no file of {package} for {arch} with the digest that is known", package = PACKAGE.name)]
    NotListed {
        /// The architecture.
        arch: Arch,
        /// The page of the index.
        address: String,
    },
    /// pip did not fetch the package.
    #[error("pip cannot fetch {package}: {message}", package = PACKAGE.name)]
    Pip {
        /// The message of pip.
        message: String,
    },
}

pub(super) type Result<T> = std::result::Result<T, Error>;

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
