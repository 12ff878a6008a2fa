//! libkrunfw: a shared library whose payload is a Linux kernel.

use std::ffi::c_char;
use std::path::Path;

use super::VmmError;

/// The name of the file libkrunfw, which holds a guest kernel.
pub const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libkrunfw.5.dylib"
} else {
    "libkrunfw.so.5"
};

/// `char *krunfw_get_kernel(size_t *guest_addr, size_t *entry_addr, size_t *size)`, from libkrunfw's `libkrunfw.h`.
type GetKernel = unsafe extern "C" fn(*mut u64, *mut u64, *mut usize) -> *const c_char;

/// The kernel inside a libkrunfw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelImage {
    /// The guest-physical address the image is loaded at.
    pub(super) load_address: u64,
    /// The 64-bit entry point.
    pub(super) entry: u64,
    /// The image.
    pub(super) bytes: Vec<u8>,
}

/// Copies the kernel out of the library at `path`.
#[allow(unsafe_code)]
pub(super) fn kernel_of(path: &Path) -> Result<KernelImage, VmmError> {
    let bad = |error: libloading::Error| VmmError::BadKernel {
        path: path.to_owned(),
        // What the dynamic linker says is the cause.
        reason: std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string),
    };
    // SAFETY: loading a library runs its initialisers. libkrunfw is plain data with three accessor functions and has
    // none; the path comes from the user or a folder only the administrator writes to, as for any shared library.
    let library = unsafe { libloading::Library::new(path) }.map_err(bad)?;
    // SAFETY: this is the signature of libkrunfw's header, unchanged since its ABI version 1.
    let get_kernel = unsafe { library.get::<GetKernel>(b"krunfw_get_kernel\0") }.map_err(bad)?;
    let (mut load_address, mut entry, mut size) = (0, 0, 0);
    // SAFETY: the three pointers are valid for writes for the length of the call.
    let start = unsafe { get_kernel(&mut load_address, &mut entry, &mut size) };
    if start.is_null() || size == 0 {
        return Err(VmmError::BadKernel {
            path: path.to_owned(),
            reason: "the library holds no kernel".to_owned(),
        });
    }
    // SAFETY: the library owns `size` readable bytes at `start` for as long as it is loaded, which `library` ensures
    // until the copy is made.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) }.to_vec();
    Ok(KernelImage {
        load_address,
        entry,
        bytes,
    })
}
