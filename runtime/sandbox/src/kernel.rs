//! Installs guest kernels, in the form of libkrunfw, into the store.
//!
//! A library that is loaded runs code on this host. So a library is installed only if the user
//! named its digest or confirmed it, or if it is a file of this host or part of an image that came
//! over TLS.

mod archive;
mod digest;
mod error;
mod index;
mod package;
mod wheel;
mod zip;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek};
use std::path::{Path, PathBuf};

use blockbox_files::open_regular;
use blockbox_store::{Store, atomic};
use blockbox_vmm::kernel::{self, LIBRARY};
use blockbox_vmm::{Arch, VmmError};
use ocipull::{Digest, Image, Reference, Repository};
use serde::Serialize;

pub use error::Error;
pub use wheel::PACKAGE;

use crate::platform::platform_of;
use archive::MAX_FILE;
use digest::{digest_of, verify};
use error::{Result, io_error};

/// The source of a libkrunfw.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The Python package [`PACKAGE`], whose digests are known. It is fetched by pip with pip's
    /// configuration or, if there is no pip, from `$PIP_INDEX_URL`, else PyPI.
    Package,
    /// A file of this host: the library, or an archive (tar, zip, wheel) with it.
    File(PathBuf),
    /// Such a file on standard input.
    Stdin,
    /// The same at a URL.
    Url(String),
    /// A file in an image.
    Image(Reference),
}

impl std::str::FromStr for Source {
    type Err = ocipull::Error;

    /// Parses a source: addresses begin with `https://` or `http://`, images with `oci:` or another
    /// prefix of [`Reference`], or with `docker://`; `-` is standard input, and anything else a
    /// file.
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
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

/// Options of an installation.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct InstallOptions {
    arch: Option<Arch>,
    digest: Option<Digest>,
    pull: ocipull::Options,
}

impl InstallOptions {
    /// Sets the architecture of the machines that the kernel is for. Default: the host's.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = Some(arch);
        self
    }

    /// Refuses a file or download with another digest, or an image whose manifest has another
    /// digest.
    pub fn digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Sets how to download files and images.
    pub fn pull(mut self, options: ocipull::Options) -> Self {
        self.pull = options;
        self
    }
}

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Installed {
    /// The architecture of the machines that it is for.
    pub arch: Arch,
    /// The library, or the kernel itself.
    pub path: PathBuf,
    /// The kernel's release, such as `6.12.68`; `None` for a file that is not a library.
    pub release: Option<String>,
    /// The file's digest.
    pub digest: String,
    /// The file's size in bytes.
    pub bytes: u64,
    /// Whether sandboxes boot with it by default.
    pub used: bool,
    /// Why it cannot be used, if so.
    pub problem: Option<String>,
}

/// Installs the libkrunfw of `source` in the store, replacing an installed one. `confirm` is called
/// with the digest of a download, and with the manifest's digest of an image that was not
/// authenticated, unless the options or the reference name a digest.
///
/// # Errors
///
/// If there is no valid library. The store is then unchanged.
pub fn install(
    store: &Store,
    source: &Source,
    options: &InstallOptions,
    confirm: &mut dyn FnMut(&Digest) -> bool,
) -> Result<Installed> {
    // Temporary files are not swept up meanwhile.
    let _access = store.share()?;
    let folder = store.kernels();
    let arch = options.arch.unwrap_or(Arch::HOST);
    let path = installed(store, arch)?;
    let from_file = |file: &mut File, place: String| {
        put(&path, arch, |output| {
            archive::copy_library(file, &place, output)
        })
    };
    match source {
        Source::Package => {
            let fetched = package::fetch(&folder, arch, &options.pull)?;
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
        Source::Stdin => {
            let place = "standard input";
            let mut file = tempfile::tempfile_in(&folder).map_err(io_error(&folder))?;
            copy_stdin(&mut file).map_err(io_error(Path::new(place)))?;
            if let Some(expected) = &options.digest {
                let actual = digest_of(&mut file).map_err(io_error(&folder))?;
                verify(expected, actual, place)?;
            }
            from_file(&mut file, place.to_owned())?;
        }
        Source::Url(url) => {
            let mut file = tempfile::tempfile_in(&folder).map_err(io_error(&folder))?;
            let digest = ocipull::download(url, &mut file, MAX_FILE, &options.pull)?;
            // The query of an address may contain a signature.
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
            let mut pull = options.pull.clone();
            pull.platform = platform_of(arch);
            let authentic = is_authentic(reference, &pull)?;
            let image = Image::open(reference, &pull)?;
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
            put(&path, arch, |output| {
                archive::copy_from_image(&image, &place, output)
            })?;
        }
    }
    describe(&path, arch, true)
}

/// Returns the kernels that [`kernel::find`] checks for each architecture, the host's first, in its
/// order: it uses the first valid one.
///
/// # Errors
///
/// If a file cannot be read.
pub fn list(store: &Store) -> Result<Vec<Installed>> {
    let mut found: Vec<Installed> = Vec::new();
    for arch in std::iter::once(Arch::HOST).chain(Arch::foreign()) {
        let used = kernel::find(None, store.root(), arch).ok();
        let used = used.as_ref().map(|source| source.path());
        let named = used.map(Path::to_owned).into_iter();
        for path in named.chain(kernel::libraries(store.root(), arch)) {
            if found.iter().all(|known| known.path != path) {
                let is_used = used == Some(path.as_path());
                found.push(describe(&path, arch, is_used)?);
            }
        }
    }
    Ok(found)
}

/// Returns whether an image is authenticated: one of this host, one named by its digest, or one
/// that comes over TLS.
fn is_authentic(reference: &Reference, options: &ocipull::Options) -> Result<bool> {
    Ok(match reference {
        Reference::Registry { digest: None, .. } => {
            Repository::of(reference, options)?.is_authentic()
        }
        _ => true,
    })
}

/// Returns the path of the store's library for `arch`, whose folder is made if it is missing.
fn installed(store: &Store, arch: Arch) -> Result<PathBuf> {
    let folder = kernel::folder(store.root(), arch);
    std::fs::create_dir_all(&folder).map_err(io_error(&folder))?;
    Ok(folder.join(LIBRARY))
}

/// Writes the library at `path` with `copy`. It is put in place only if it holds a kernel for
/// `arch`.
fn put(path: &Path, arch: Arch, copy: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    atomic::write_file(path, |file| {
        copy(file.as_file_mut())?;
        kernel::release(&file.path(), arch).map_err(|error| match error {
            // Replaces the temporary name in the error.
            VmmError::BadKernel { reason, .. } => VmmError::BadKernel {
                path: path.to_owned(),
                reason: reason.replace(&*file.path().to_string_lossy(), LIBRARY),
            },
            other => other,
        })?;
        Ok(())
    })
}

fn describe(path: &Path, arch: Arch, used: bool) -> Result<Installed> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let bytes = file.metadata().map_err(io_error(path))?.len();
    let digest = digest_of(&mut file).map_err(io_error(path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let release = match name.starts_with("libkrunfw") {
        true => kernel::release(path, arch).map(Some),
        false => Ok(None),
    };
    let (release, problem) = match release {
        Ok(release) => (release, None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Installed {
        arch,
        path: path.to_owned(),
        release,
        digest: digest.to_string(),
        bytes,
        used,
        problem,
    })
}

/// Copies standard input to `file`, and seeks to its beginning.
fn copy_stdin(file: &mut File) -> io::Result<()> {
    let stdin = io::stdin();
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if stdin.is_terminal() {
        return refused("a terminal, where a file is expected");
    }
    match io::copy(&mut stdin.lock().take(MAX_FILE + 1), file)? {
        copied if copied > MAX_FILE => refused("it is too long"),
        _ => file.rewind(),
    }
}
