//! The guest kernel: where it is found, and in which form both monitors boot it.
//!
//! A kernel from libkrunfw is a bare memory image. On x86-64 it is wrapped in an ELF file that carries both entry points: the
//! 64-bit one as `e_entry`, which libkrun jumps to, and the PVH one in a Xen note, which QEMU wants. On other
//! architectures the image itself is what both take.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::VmmError;
use super::krunfw::{self, KernelImage};

/// Names a kernel file, as `--kernel` does.
pub const KERNEL_VARIABLE: &str = "BLOCKBOX_KERNEL";

/// Where a guest kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelSource {
    /// A kernel file used as it is.
    File(PathBuf),
    /// A libkrunfw library to take the kernel from.
    Libkrunfw(PathBuf),
}

impl KernelSource {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            KernelSource::File(path) | KernelSource::Libkrunfw(path) => path,
        }
    }
}

/// Finds a guest kernel: `explicit`, else `$BLOCKBOX_KERNEL`, else libkrunfw in `home/kernel`, next to the executable, or in the
/// system's library folders. A file named explicitly may be a kernel or a libkrunfw.
///
/// # Errors
///
/// [`VmmError::KernelNotFound`] with everything that was searched; [`VmmError::BadKernel`] when an explicit file is
/// unreadable.
pub fn find(explicit: Option<&Path>, home: &Path) -> Result<KernelSource, VmmError> {
    let variable = std::env::var_os(KERNEL_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    if let Some(path) = explicit.map(Path::to_owned).or(variable) {
        return classify(path);
    }
    let searched = search_path(home);
    searched
        .iter()
        .map(|folder| folder.join(krunfw::LIBRARY))
        .find(|path| path.is_file())
        .map(KernelSource::Libkrunfw)
        .ok_or(VmmError::KernelNotFound {
            name: krunfw::LIBRARY,
            searched,
        })
}

/// Makes `source` a file that [`VmConfig::kernel`](super::VmConfig::kernel) takes, keeping it in the folder `cache`
/// under a name made from its contents.
///
/// # Errors
///
/// When the library holds no kernel, or the cache cannot be written.
pub fn prepare(source: &KernelSource, cache: &Path) -> Result<PathBuf, VmmError> {
    let library = match source {
        KernelSource::File(path) => return Ok(path.clone()),
        KernelSource::Libkrunfw(path) => path,
    };
    let digest =
        digest_of(library).map_err(VmmError::io(format!("cannot read {}", library.display())))?;
    let kernel = cache.join(format!("kernel-{FORM}-{}", &digest[..32]));
    if kernel.is_file() {
        return Ok(kernel);
    }
    let image = krunfw::kernel_of(library)?;
    let bytes = bootable(&image).ok_or_else(|| VmmError::BadKernel {
        path: library.clone(),
        reason: "its kernel has no PVH entry point".to_owned(),
    })?;
    store(&bytes, cache, &kernel)
        .map_err(VmmError::io(format!("cannot write {}", kernel.display())))?;
    Ok(kernel)
}

/// [`find`] and [`prepare`].
///
/// # Errors
///
/// As theirs.
pub fn locate(explicit: Option<&Path>, home: &Path, cache: &Path) -> Result<PathBuf, VmmError> {
    prepare(&find(explicit, home)?, cache)
}

/// The form kernels are kept in, part of their cached name: a new form must not find an old one's files.
const FORM: &str = if cfg!(target_arch = "x86_64") {
    "elf1"
} else {
    "raw1"
};

fn classify(path: PathBuf) -> Result<KernelSource, VmmError> {
    File::open(&path).map_err(|error| VmmError::BadKernel {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    // Both are ELF files; a library goes by its name, whatever its version.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(if name.starts_with("libkrunfw") {
        KernelSource::Libkrunfw(path)
    } else {
        KernelSource::File(path)
    })
}

/// The folders libkrunfw is looked for in, in order.
pub(super) fn search_path(home: &Path) -> Vec<PathBuf> {
    let mut folders = vec![home.join("kernel")];
    if let Some(folder) = std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::parent)
    {
        folders.push(folder.to_owned());
        folders.push(folder.join("../lib"));
    }
    let arch = std::env::consts::ARCH;
    folders.extend(
        [
            "/usr/local/lib64",
            "/usr/local/lib",
            "/usr/lib64",
            "/usr/lib",
            "/lib64",
            "/opt/homebrew/lib",
            "/home/linuxbrew/.linuxbrew/lib",
        ]
        .map(PathBuf::from),
    );
    folders.push(PathBuf::from(format!("/usr/lib/{arch}-linux-gnu")));
    folders
}

fn digest_of(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        hasher.update(chunk.get(..count).unwrap_or_default());
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn store(bytes: &[u8], folder: &Path, kernel: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(kernel)?;
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn bootable(image: &KernelImage) -> Option<Vec<u8>> {
    Some(image.bytes.clone())
}

#[cfg(target_arch = "x86_64")]
fn bootable(image: &KernelImage) -> Option<Vec<u8>> {
    super::pvh::wrap(image.load_address, image.entry, &image.bytes)
}
