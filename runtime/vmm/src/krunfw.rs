//! Reads the Linux kernel from libkrunfw, a shared library.
//!
//! On arm64 the kernel is an exported object that boots as it is, so it is read from the file. On
//! x86-64 only the library's code knows its entry point: the library is loaded.

use std::ffi::c_char;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::elf::Library;
use super::{Arch, VmmError};

/// The file name of libkrunfw.
pub const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libkrunfw.5.dylib"
} else {
    "libkrunfw.so.5"
};

/// The largest library, in bytes.
const MAX_LIBRARY: u64 = 256 << 20;

/// The exported object with the kernel: a C string, whose last NUL is not the kernel's.
const OBJECT: &str = "KERNEL_BUNDLE";

/// The magic number of an arm64 kernel image, and its offset (Linux's
/// `Documentation/arch/arm64/booting.rst`).
pub(super) const ARM64_MAGIC: (usize, &[u8]) = (0x38, b"ARM\x64");

/// `char *krunfw_get_kernel(size_t *guest_addr, size_t *entry_addr, size_t *size)`, from
/// libkrunfw's `libkrunfw.h`.
type GetKernel = unsafe extern "C" fn(*mut u64, *mut u64, *mut usize) -> *const c_char;

/// The kernel in a libkrunfw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KernelImage {
    /// An arm64 kernel, which boots as it is.
    Arm64(Vec<u8>),
    /// A memory image of an x86-64 kernel.
    X86 {
        /// The guest-physical address the image is loaded at.
        load_address: u64,
        /// The 64-bit entry point.
        entry: u64,
        /// The image.
        bytes: Vec<u8>,
    },
}

impl KernelImage {
    /// Returns the bytes of the image.
    pub(super) fn bytes(&self) -> &[u8] {
        let (Self::Arm64(bytes) | Self::X86 { bytes, .. }) = self;
        bytes
    }
}

/// Returns the error that the file at `path` is not a usable kernel.
fn bad(path: &Path, reason: impl Into<String>) -> VmmError {
    VmmError::BadKernel {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// Copies the kernel of `arch` out of the library at `path`.
pub(super) fn kernel_of(path: &Path, arch: Arch) -> Result<KernelImage, VmmError> {
    let mut bytes = Vec::new();
    blockbox_files::open_regular(path)
        .and_then(|file: File| file.take(MAX_LIBRARY + 1).read_to_end(&mut bytes))
        .map_err(VmmError::io(format!("cannot read {}", path.display())))?;
    if bytes.len() as u64 > MAX_LIBRARY {
        return Err(bad(path, format!("it is larger than {MAX_LIBRARY} bytes")));
    }
    let image = match Library::parse(&bytes) {
        Some(library) => kernel_in(path, &library, arch)?,
        // A library of macOS, or a file that the dynamic linker rejects.
        None if arch.is_host() => load(path)?,
        None => return Err(bad(path, "it is not a library of Linux")),
    };
    let (at, magic) = ARM64_MAGIC;
    match &image {
        KernelImage::Arm64(kernel) if !kernel.get(at..).is_some_and(|k| k.starts_with(magic)) => {
            Err(bad(path, "its kernel is not an arm64 image"))
        }
        _ => Ok(image),
    }
}

/// Copies the kernel of `arch` out of a library of Linux.
fn kernel_in(path: &Path, library: &Library<'_>, arch: Arch) -> Result<KernelImage, VmmError> {
    match library.arch() {
        Some(found) if found == arch => {}
        Some(found) => return Err(bad(path, format!("it is for {found} machines, not {arch}"))),
        None => return Err(bad(path, format!("it is not for {arch} machines"))),
    }
    // The dynamic linker maps the segments, and a process that reads a mapping beyond the file's
    // end is killed.
    if !library.is_whole() {
        return Err(bad(path, "the file is cut off"));
    }
    match arch {
        Arch::Aarch64 => {
            let object = library.object(OBJECT);
            let kernel = object.ok_or_else(|| bad(path, "the library holds no kernel"))?;
            let kernel = kernel.strip_suffix(b"\0").unwrap_or(kernel);
            Ok(KernelImage::Arm64(kernel.to_vec()))
        }
        Arch::X86_64 if arch.is_host() => load(path),
        Arch::X86_64 => Err(bad(
            path,
            "only a host of x86_64 can find out its kernel's entry point",
        )),
    }
}

/// Loads the library at `path`, and copies the kernel of this host's architecture out of it.
#[allow(unsafe_code)]
fn load(path: &Path) -> Result<KernelImage, VmmError> {
    let failed = |error: libloading::Error| {
        // The message of the dynamic linker is the error's cause.
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        bad(path, cause.unwrap_or_else(|| error.to_string()))
    };
    // SAFETY: loading a library runs its initialisers. libkrunfw is plain data with three accessor
    // functions and has none; the path comes from the user or a folder only the administrator
    // writes to, as for any shared library.
    let library = unsafe { libloading::Library::new(path) }.map_err(failed)?;
    // SAFETY: this is the signature of libkrunfw's header, unchanged since its ABI version 1.
    let get_kernel = unsafe { library.get::<GetKernel>(b"krunfw_get_kernel\0") }.map_err(failed)?;
    let (mut load_address, mut entry, mut size) = (0, 0, 0);
    // SAFETY: the three pointers are valid for writes for the length of the call.
    let start = unsafe { get_kernel(&mut load_address, &mut entry, &mut size) };
    if start.is_null() || size == 0 {
        return Err(bad(path, "the library holds no kernel"));
    }
    // SAFETY: the library owns `size` readable bytes at `start` for as long as it is loaded, which
    // `library` ensures until the copy is made.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) }.to_vec();
    Ok(match Arch::HOST {
        Arch::Aarch64 => KernelImage::Arm64(bytes),
        Arch::X86_64 => KernelImage::X86 {
            load_address,
            entry,
            bytes,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::library;
    use super::*;

    /// `e_machine` of the architectures.
    const X86_64: u16 = 62;
    const AARCH64: u16 = 183;

    fn kernel(library: &[u8], arch: Arch) -> Result<KernelImage, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), library).unwrap();
        kernel_of(file.path(), arch).map_err(|error| error.to_string())
    }

    #[test]
    fn an_arm64_kernel_is_read_without_loading_its_library() {
        let mut image = vec![0; 64];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let whole = library(AARCH64, OBJECT, &[&image[..], b"\0"].concat());
        let found = kernel(&whole, Arch::Aarch64);
        assert_eq!(found, Ok(KernelImage::Arm64(image.clone())));

        let refused = |library: &[u8], arch, reason: &str| {
            let error = kernel(library, arch).unwrap_err();
            assert!(error.contains(reason), "{error}");
        };
        refused(&whole, Arch::X86_64, "it is for aarch64 machines");
        let other = library(X86_64, OBJECT, &image);
        refused(&other, Arch::Aarch64, "it is for x86_64 machines");
        let other = library(AARCH64, OBJECT, b"\0");
        refused(&other, Arch::Aarch64, "not an arm64 image");
        let other = library(AARCH64, "OTHER", &image);
        refused(&other, Arch::Aarch64, "holds no kernel");
        let other = library(40, OBJECT, &image);
        refused(&other, Arch::Aarch64, "not for aarch64 machines");
    }

    #[test]
    fn a_truncated_library_is_rejected_before_it_is_loaded() {
        let machine = match Arch::HOST {
            Arch::X86_64 => X86_64,
            Arch::Aarch64 => AARCH64,
        };
        let whole = library(machine, OBJECT, &[0; 1000]);
        for length in [64, 100, 119, 120, 500, whole.len() - 1] {
            let error = kernel(&whole[..length], Arch::HOST).unwrap_err();
            assert!(error.contains("cut off"), "{length}: {error}");
        }
    }
}
