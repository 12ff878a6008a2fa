//! Installing guest kernels: libkrunfw, from where there is one, into the store.
//!
//! A library that is loaded is code that runs here, so nothing becomes the store's kernel that the
//! user did not name by a digest or confirm, unless it is a file of this host or part of an image
//! that came over TLS.

mod archive;
mod index;
mod package;
mod zip;

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use blockbox_files::open_regular;
use blockbox_store::{Store, atomic};
use blockbox_vmm::VmmError;
use blockbox_vmm::kernel::{self, LIBRARY};
use ocipull::{Digest, Image, Reference, Repository};
use serde::Serialize;

pub use package::PACKAGE;

/// The most bytes of a file that a library is taken from.
const MAX_FILE: u64 = 1 << 30;

/// The most bytes of a library.
const MAX_LIBRARY: u64 = 256 << 20;

/// Why there is no kernel to install.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be written.
    #[error(transparent)]
    Store(#[from] blockbox_store::Error),
    /// A download or an image failed.
    #[error(transparent)]
    Pull(#[from] ocipull::Error),
    /// What was installed holds no kernel that boots here.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The file cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The file is not the one that the digest names.
    #[error("{place}: its digest is {actual}, not {expected}")]
    Digest {
        /// The file or address.
        place: String,
        /// The digest asked for.
        expected: Digest,
        /// The file's.
        actual: Digest,
    },
    /// Nobody said that what came from an address, or of an image without TLS, is what it should
    /// be.
    #[error("{place}: nothing vouches for what is there, whose digest is {digest}")]
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
    /// The file is none that a library is taken from.
    #[error("{place}: not a {LIBRARY}, nor a tar, zip or wheel with one: {reason}")]
    Format {
        /// The file, address or image.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No packaged kernel can be had on this kind of host.
    #[error("no package with a guest kernel is known for {os} {arch}", os = std::env::consts::OS, arch = std::env::consts::ARCH)]
    NoPackage,
    /// The Python index has no file of the package with one of the known digests for this kind of
    /// host.
    #[error("{address}: no file of {package} for this host with the digest that is known", package = PACKAGE.name)]
    NotListed {
        /// The page of the index.
        address: String,
    },
    /// pip did not fetch the package.
    #[error("pip cannot fetch {package}: {message}", package = PACKAGE.name)]
    Pip {
        /// What it said.
        message: String,
    },
}

type Result<T> = std::result::Result<T, Error>;

/// Where a libkrunfw is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The Python package [`PACKAGE`], whose digests are known, fetched by pip with its own
    /// configuration, or where there is no pip from `$PIP_INDEX_URL`, else PyPI.
    Package,
    /// A file of this host: the library, or an archive (tar, zip, wheel) with it.
    File(PathBuf),
    /// The same at an address.
    Url(String),
    /// A file in an image.
    Image(Reference),
}

impl std::str::FromStr for Source {
    type Err = ocipull::Error;

    /// Addresses begin with `https://` or `http://`, images with `oci:` or another word of
    /// [`Reference`] before a colon, or with `docker://`; anything else is a file.
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::Url(text.to_owned()));
        }
        let image = text.starts_with("docker://")
            || text.parse().is_ok_and(|name: Reference| name.is_local());
        Ok(match image {
            true => Self::Image(text.parse()?),
            false => Self::File(text.into()),
        })
    }
}

/// How to install a kernel.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct InstallOptions {
    digest: Option<Digest>,
    pull: ocipull::Options,
}

impl InstallOptions {
    /// Refuses a file or address whose bytes have another digest, and an image whose manifest has.
    pub fn digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// How to download, and how to get an image.
    pub fn pull(mut self, options: ocipull::Options) -> Self {
        self.pull = options;
        self
    }
}

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Installed {
    /// The library, or the kernel itself.
    pub path: PathBuf,
    /// What the kernel calls itself, such as `6.12.68`; `None` for a file that is no library.
    pub release: Option<String>,
    /// The file's digest.
    pub digest: String,
    /// The file's size in bytes.
    pub bytes: u64,
    /// Whether it is the one that sandboxes boot with, unless they name another.
    pub used: bool,
    /// Why it cannot be used, if so.
    pub problem: Option<String>,
}

/// Takes the libkrunfw that `source` has, and makes it the store's, in place of one that the store
/// has. `confirm` is asked about the digest of what comes from an address, and of the manifest of
/// an image that anyone on the way could have changed, where neither the options nor the reference
/// name one.
///
/// # Errors
///
/// Where there is none, or it is not what it should be. The store is then as it was.
pub fn install(
    store: &Store,
    source: &Source,
    options: &InstallOptions,
    confirm: &mut dyn FnMut(&Digest) -> bool,
) -> Result<Installed> {
    // What is half made is swept up while nobody makes anything.
    let _access = store.share()?;
    let folder = store.kernels();
    let from_file = |file: &mut File, place: String| {
        put(store, |output| archive::copy_library(file, &place, output))
    };
    match source {
        Source::Package => {
            let fetched = package::fetch(&folder, &options.pull)?;
            let mut file = File::open(fetched.path()).map_err(io_error(fetched.path()))?;
            from_file(&mut file, PACKAGE.name.to_owned())?;
        }
        Source::File(path) => {
            let mut file = open_regular(path).map_err(io_error(path))?;
            let place = path.display().to_string();
            if let Some(expected) = &options.digest {
                verify(
                    expected,
                    digest_of(&mut file).map_err(io_error(path))?,
                    &place,
                )?;
            }
            from_file(&mut file, place)?;
        }
        Source::Url(url) => {
            let mut file = tempfile::tempfile_in(&folder).map_err(io_error(&folder))?;
            let digest = ocipull::download(url, &mut file, MAX_FILE, &options.pull)?;
            // An address may have a signature in its query.
            let place = url.split(['?', '#']).next().unwrap_or_default().to_owned();
            match &options.digest {
                Some(expected) => verify(expected, digest, &place)?,
                None if confirm(&digest) => {}
                None => return Err(Error::NotConfirmed { place, digest }),
            }
            file.rewind().map_err(io_error(&folder))?;
            from_file(&mut file, place)?;
        }
        Source::Image(reference) => {
            let authentic = is_authentic(reference, &options.pull)?;
            let image = Image::open(reference, &options.pull)?;
            let place = reference.to_string();
            let digest = image.manifest_digest();
            match &options.digest {
                Some(expected) => verify(expected, digest.clone(), &place)?,
                None if authentic || confirm(digest) => {}
                None => {
                    let digest = digest.clone();
                    return Err(Error::NotConfirmed { place, digest });
                }
            }
            put(store, |output| {
                archive::copy_from_image(&image, &place, output)
            })?;
        }
    }
    describe(&installed(store), true)
}

/// Returns the kernels that [`kernel::find`] looks at, in its order: the first that can be used is.
///
/// # Errors
///
/// Where a file cannot be read.
pub fn list(store: &Store) -> Result<Vec<Installed>> {
    let used = kernel::find(None, store.root()).ok();
    let used = used.as_ref().map(|source| source.path());
    let named = used.map(Path::to_owned).into_iter();
    let mut found: Vec<Installed> = Vec::new();
    for path in named.chain(kernel::libraries(store.root())) {
        if found.iter().all(|known| known.path != path) {
            let is_used = used == Some(path.as_path());
            found.push(describe(&path, is_used)?);
        }
    }
    Ok(found)
}

/// Whether an image is what its place has: one of this host, one that its digest names, or one that
/// comes over TLS.
fn is_authentic(reference: &Reference, options: &ocipull::Options) -> Result<bool> {
    Ok(match reference {
        Reference::Registry { digest: None, .. } => {
            Repository::of(reference, options)?.is_authentic()
        }
        _ => true,
    })
}

/// Where the store's own library is.
fn installed(store: &Store) -> PathBuf {
    store.kernels().join(LIBRARY)
}

/// Writes the store's library by `copy`; it becomes that once it turned out to hold a kernel.
fn put(store: &Store, copy: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let path = installed(store);
    atomic::write_file(&path, |file| {
        copy(file.as_file_mut())?;
        kernel::release(&file.path()).map_err(|error| match error {
            // The name is a temporary one.
            VmmError::BadKernel { reason, .. } => VmmError::BadKernel {
                path: path.clone(),
                reason: reason.replace(&*file.path().to_string_lossy(), LIBRARY),
            },
            other => other,
        })?;
        Ok(())
    })
}

fn describe(path: &Path, used: bool) -> Result<Installed> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let bytes = file.metadata().map_err(io_error(path))?.len();
    let digest = digest_of(&mut file).map_err(io_error(path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let release = match name.starts_with("libkrunfw") {
        true => kernel::release(path).map(Some),
        false => Ok(None),
    };
    let (release, problem) = match release {
        Ok(release) => (release, None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Installed {
        path: path.to_owned(),
        release,
        digest: digest.to_string(),
        bytes,
        used,
        problem,
    })
}

fn verify(expected: &Digest, actual: Digest, place: &str) -> Result<()> {
    match *expected == actual {
        true => Ok(()),
        false => Err(Error::Digest {
            place: place.to_owned(),
            expected: expected.clone(),
            actual,
        }),
    }
}

/// The SHA-256 digest of a file, which then stands at its beginning.
fn digest_of(file: &mut File) -> io::Result<Digest> {
    let digest = Digest::sha256_of(file)?;
    file.rewind()?;
    Ok(digest)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
