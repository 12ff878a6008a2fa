//! The guest kernel: where it is found, and the form that both monitors boot.
//!
//! A kernel in libkrunfw is a bare memory image. On x86-64 it is wrapped in an ELF file with both
//! entry points: the 64-bit one as `e_entry`, which libkrun jumps to, and the PVH one in a Xen
//! note, which QEMU needs. On arm64 both monitors boot the image itself.

mod stale;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use blockbox_files::{NewFile, open_regular};
use sha2::{Digest, Sha256};

use super::elf::Library;
use super::krunfw::{self, KernelImage};
use super::{Arch, VmmError, pvh};

pub use krunfw::LIBRARY;
pub use stale::stale;

/// The variable that names a kernel file for the host's architecture, as `--kernel` does.
pub const KERNEL_VARIABLE: &str = "BLOCKBOX_KERNEL";

/// The source of a guest kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelSource {
    /// A kernel file used as it is.
    File(PathBuf),
    /// A libkrunfw library that contains the kernel.
    Libkrunfw(PathBuf),
}

impl KernelSource {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        match self {
            KernelSource::File(path) | KernelSource::Libkrunfw(path) => path,
        }
    }
}

/// Finds a guest kernel for `arch`: `explicit`, else `$BLOCKBOX_KERNEL`, else libkrunfw in
/// [`folder`], next to the executable, or in the system's library folders. An explicit file may be
/// a kernel or a libkrunfw. For another architecture than the host's, only `explicit`, [`folder`]
/// and the folder of that architecture's libraries count.
///
/// # Errors
///
/// [`VmmError::KernelNotFound`] with the folders that were searched; [`VmmError::BadKernel`] if an
/// explicit file cannot be read, or is for another architecture.
pub fn find(explicit: Option<&Path>, home: &Path, arch: Arch) -> Result<KernelSource, VmmError> {
    let variable = std::env::var_os(KERNEL_VARIABLE)
        .filter(|value| arch.is_host() && !value.is_empty())
        .map(PathBuf::from);
    if let Some(path) = explicit.map(Path::to_owned).or(variable) {
        return classify(path, arch);
    }
    libraries(home, arch)
        .next()
        .map(KernelSource::Libkrunfw)
        .ok_or_else(|| VmmError::KernelNotFound {
            arch,
            name: LIBRARY,
            searched: search_path(home, arch),
        })
}

/// Returns the folder of a store where kernels of `arch` are installed.
pub fn folder(home: &Path, arch: Arch) -> PathBuf {
    let kernels = home.join("kernel");
    match arch.is_host() {
        true => kernels,
        false => kernels.join(arch.name()),
    }
}

/// Returns every libkrunfw that [`find`] can find, beginning with the one that it returns.
pub fn libraries(home: &Path, arch: Arch) -> impl Iterator<Item = PathBuf> {
    let folders = search_path(home, arch).into_iter();
    folders
        .map(|folder| folder.join(LIBRARY))
        .filter(|path| path.is_file())
}

/// Converts `source` to a file for [`VmConfig::kernel`](super::VmConfig::kernel), and keeps it in
/// the folder `cache` under a name derived from its contents. A library that was converted before
/// and has not changed is not read again.
///
/// # Errors
///
/// If the library holds no kernel, or the cache cannot be written.
pub fn prepare(source: &KernelSource, cache: &Path, arch: Arch) -> Result<PathBuf, VmmError> {
    let library = match source {
        KernelSource::File(path) => return Ok(path.clone()),
        KernelSource::Libkrunfw(path) => path,
    };
    let unreadable = || VmmError::io(format!("cannot read {}", library.display()));
    let identity = Identity::of(library).map_err(unreadable())?;
    let form = form(arch);
    let seen = cache.join(format!("{SEEN_PREFIX}{form}-{identity}"));
    if let Some(kernel) = seen_before(&seen, cache) {
        return Ok(kernel);
    }
    let digest = digest_of(library).map_err(unreadable())?;
    let name = format!("{KERNEL_PREFIX}{form}-{}", &digest[..32]);
    let kernel = cache.join(&name);
    // If the note cannot be written, the next start reads the library again. A note on a file that
    // has just changed could also match another change within the same tick of the file system's
    // clock.
    let note = || {
        if identity.is_settled() && Identity::of(library).is_ok_and(|now| now == identity) {
            let _ = write_beside(name.as_bytes(), cache).and_then(|note| note.persist(&seen));
        }
    };
    if kernel.is_file() {
        note();
        return Ok(kernel);
    }
    let bytes = bootable(krunfw::kernel_of(library, arch)?, library)?;
    store_once(&bytes, cache, &kernel)
        .map_err(VmmError::io(format!("cannot write {}", kernel.display())))?;
    note();
    Ok(kernel)
}

/// Returns the release of the kernel of `arch` in the libkrunfw at `library`, such as `6.12.68`.
///
/// # Errors
///
/// [`VmmError::BadKernel`] if the library cannot be read here, or holds no kernel that can boot.
pub fn release(library: &Path, arch: Arch) -> Result<String, VmmError> {
    let image = krunfw::kernel_of(library, arch)?;
    let release = banner(image.bytes());
    bootable(image, library)?;
    release.ok_or_else(|| VmmError::BadKernel {
        path: library.to_owned(),
        reason: "its kernel does not say its version".to_owned(),
    })
}

/// Returns the release in the first banner in `kernel`, as in `/proc/version`.
fn banner(kernel: &[u8]) -> Option<String> {
    const START: &[u8] = b"Linux version ";
    // The same words occur in a format string, without a number after them.
    let mut banners = memchr::memmem::find_iter(kernel, START)
        .filter_map(|at| kernel.get(at + START.len()..))
        .filter(|rest| rest.first().is_some_and(u8::is_ascii_digit));
    let rest = banners.next()?;
    let release = rest.split(|byte| byte.is_ascii_whitespace()).next()?;
    (release.len() <= 64 && release.iter().all(u8::is_ascii_graphic))
        .then(|| String::from_utf8_lossy(release).into_owned())
}

/// Returns the kernel that the note `seen` names, if it exists.
fn seen_before(seen: &Path, cache: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(seen).ok()?;
    let kernel = cache.join(&name);
    (name.starts_with(KERNEL_PREFIX) && !name.contains('/') && kernel.is_file()).then_some(kernel)
}

/// Calls [`find`] and [`prepare`].
///
/// # Errors
///
/// Those of both.
pub fn locate(
    explicit: Option<&Path>,
    home: &Path,
    cache: &Path,
    arch: Arch,
) -> Result<PathBuf, VmmError> {
    prepare(&find(explicit, home, arch)?, cache, arch)
}

/// Returns the form of a prepared kernel. It is a part of the file's name, so that another version
/// does not use files of another form.
fn form(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "elf1",
        Arch::Aarch64 => "raw1",
    }
}

/// The prefix of the names of prepared kernels.
const KERNEL_PREFIX: &str = "kernel-";

/// The prefix of the names of notes on libraries: a note holds the name of the kernel prepared from
/// one.
const SEEN_PREFIX: &str = "seen-";

/// Identifies a version of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns whether the last change is old enough that another change would show in the times.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        i64::try_from(now).is_ok_and(|now| self.changed.0.saturating_add(2) < now)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity {
            device,
            inode,
            size,
            modified: (modified, modified_ns),
            changed: (changed, changed_ns),
        } = self;
        write!(f, "{device:x}-{inode:x}-{size:x}")?;
        write!(
            f,
            "-{modified:x}.{modified_ns:x}-{changed:x}.{changed_ns:x}"
        )
    }
}

fn classify(path: PathBuf, arch: Arch) -> Result<KernelSource, VmmError> {
    let bad = |reason: String| VmmError::BadKernel {
        path: path.clone(),
        reason,
    };
    let file = open_regular(&path).map_err(|error| bad(error.to_string()))?;
    // Both are ELF files; a library is recognised by its name, with any version.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("libkrunfw") {
        return Ok(KernelSource::Libkrunfw(path));
    }
    let mut head = Vec::new();
    file.take(HEAD)
        .read_to_end(&mut head)
        .map_err(|error| bad(error.to_string()))?;
    if !is_kernel(&head) {
        return Err(bad("it is not a kernel".to_owned()));
    }
    if let Some(found) = arch_of(&head).filter(|found| *found != arch) {
        return Err(bad(format!("it is for {found} machines, not {arch}")));
    }
    Ok(KernelSource::File(path))
}

/// How many bytes at the beginning of a file show whether it is a kernel.
const HEAD: u64 = 0x206;

/// Returns whether a file that begins with `head` can be a kernel: an ELF file, a bzImage, an arm64
/// image, or a compressed one.
fn is_kernel(head: &[u8]) -> bool {
    let compressed = head.starts_with(b"\x1f\x8b");
    compressed || head.starts_with(b"\x7fELF") || arch_of(head).is_some()
}

/// Returns the architecture of a kernel that begins with `head`, if that shows.
fn arch_of(head: &[u8]) -> Option<Arch> {
    let has = |(at, magic): (usize, &[u8])| head.get(at..).is_some_and(|h| h.starts_with(magic));
    if let Some(library) = Library::parse(head) {
        library.arch()
    } else if has((0x202, b"HdrS")) {
        Some(Arch::X86_64)
    } else {
        has(krunfw::ARM64_MAGIC).then_some(Arch::Aarch64)
    }
}

/// Returns the folders that are searched for libkrunfw, in order.
pub(super) fn search_path(home: &Path, arch: Arch) -> Vec<PathBuf> {
    let mut folders = vec![folder(home, arch)];
    let of_arch = PathBuf::from(format!("/usr/lib/{arch}-linux-gnu"));
    if !arch.is_host() {
        folders.push(of_arch);
        return folders;
    }
    if let Some(folder) = std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::parent)
    {
        folders.push(folder.to_owned());
        folders.push(folder.join("../lib"));
    }
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
    folders.push(of_arch);
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

/// Writes `bytes` to a new temporary file in `folder`, which is created if it is missing.
fn write_beside(bytes: &[u8], folder: &Path) -> io::Result<NewFile> {
    fs::create_dir_all(folder)?;
    let mut file = NewFile::create_in(folder, 0o600)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Stores a kernel under a name derived from its contents. If another process has just stored it,
/// that file stays: the rules that confine a virtual machine refer to the file, and would not apply
/// to one that replaced it.
fn store_once(bytes: &[u8], folder: &Path, kernel: &Path) -> io::Result<()> {
    match write_beside(bytes, folder)?.persist_new(kernel) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Returns the kernel out of `library` in the form that both monitors boot.
fn bootable(image: KernelImage, library: &Path) -> Result<Vec<u8>, VmmError> {
    match image {
        KernelImage::Arm64(bytes) => Ok(bytes),
        KernelImage::X86 {
            load_address,
            entry,
            bytes,
        } => pvh::wrap(load_address, entry, &bytes).ok_or_else(|| VmmError::BadKernel {
            path: library.to_owned(),
            reason: "its kernel has no PVH entry point".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn files_that_are_no_kernels_are_rejected_before_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        let cases = [
            (b"root:x:0:0::/root:/bin/sh\n".to_vec(), false),
            (Vec::new(), false),
            (b"\x7fELF\x02\x01\x01".to_vec(), true),
            ([vec![0; 0x202], b"HdrS".to_vec()].concat(), true),
            // For another processor.
            ([vec![0; 0x38], b"ARM\x64".to_vec()].concat(), false),
        ];
        for (bytes, is_one) in cases {
            fs::write(&path, &bytes).unwrap();
            let found = find(Some(&path), folder.path(), Arch::X86_64);
            assert_eq!(found.is_ok(), is_one, "{found:?}");
        }
    }

    #[test]
    fn storing_a_kernel_again_keeps_the_existing_file() {
        let cache = tempfile::tempdir().unwrap();
        let kernel = cache.path().join("kernel-elf1-0");
        store_once(b"kernel", cache.path(), &kernel).unwrap();
        let before = Identity::of(&kernel).unwrap();
        store_once(b"kernel", cache.path(), &kernel).unwrap();
        assert_eq!(Identity::of(&kernel).unwrap(), before);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
    }

    /// Makes a library whose last change is long ago.
    fn library(folder: &Path, bytes: &[u8]) -> PathBuf {
        let path = folder.join(LIBRARY);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_library_that_has_not_changed_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("kernels");
        let library = library(folder.path(), b"not a library");
        let source = KernelSource::Libkrunfw(library.clone());
        assert!(matches!(
            prepare(&source, &cache, Arch::HOST),
            Err(VmmError::BadKernel { .. })
        ));

        // The files that preparing it would have made.
        fs::create_dir(&cache).unwrap();
        let kernel = cache.join("kernel-x");
        fs::write(&kernel, b"kernel").unwrap();
        let seen = |library| {
            let identity = Identity::of(library).unwrap();
            cache.join(format!("seen-{}-{identity}", form(Arch::HOST)))
        };
        fs::write(seen(&library), "kernel-x").unwrap();
        assert_eq!(prepare(&source, &cache, Arch::HOST).unwrap(), kernel);

        // A note that leads out of the folder is not followed.
        fs::write(seen(&library), "kernel-x/../../libkrunfw.so.5").unwrap();
        assert!(prepare(&source, &cache, Arch::HOST).is_err());
        fs::write(seen(&library), "kernel-x").unwrap();
        fs::write(&library, b"another").unwrap();
        assert!(prepare(&source, &cache, Arch::HOST).is_err());
    }

    #[test]
    fn the_release_is_that_of_the_kernels_own_banner() {
        let kernel = b"\0Linux version %s\0Linux version 6.12.68 (builder@host) #1\n";
        assert_eq!(banner(kernel).as_deref(), Some("6.12.68"));
        assert_eq!(banner(b"Linux version"), None);
        assert_eq!(
            banner(&[b"Linux version 6".as_slice(), &[b'6'; 100]].concat()),
            None
        );
    }

    #[test]
    fn identity_of_a_just_changed_library_is_not_settled() {
        let folder = tempfile::tempdir().unwrap();
        let library = library(folder.path(), b"x");
        let mut identity = Identity::of(&library).unwrap();
        assert!(!identity.is_settled());
        identity.changed.0 -= 10;
        assert!(identity.is_settled());
    }
}
