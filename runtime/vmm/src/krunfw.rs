//! Reads the Linux kernel from libkrunfw, a shared library.

use std::ffi::c_char;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::VmmError;

/// The file name of libkrunfw.
pub const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libkrunfw.5.dylib"
} else {
    "libkrunfw.so.5"
};

/// `char *krunfw_get_kernel(size_t *guest_addr, size_t *entry_addr, size_t *size)`, from
/// libkrunfw's `libkrunfw.h`.
type GetKernel = unsafe extern "C" fn(*mut u64, *mut u64, *mut usize) -> *const c_char;

/// The kernel in a libkrunfw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelImage {
    /// The guest-physical address the image is loaded at.
    pub(super) load_address: u64,
    /// The 64-bit entry point.
    pub(super) entry: u64,
    /// The image.
    pub(super) bytes: Vec<u8>,
}

/// Checks that the file has all bytes of an ELF library's segments: the dynamic linker maps them,
/// and a process that reads a mapping beyond the file's end is killed.
fn check_whole(path: &Path) -> Result<(), VmmError> {
    let bad = |reason: &str| VmmError::BadKernel {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let failed = VmmError::io(format!("cannot read {}", path.display()));
    let whole = blockbox_files::open_regular(path).and_then(|file| {
        let metadata = file.metadata()?;
        Ok((segments_end(&file)?, metadata.len()))
    });
    match whole.map_err(failed)? {
        (Some(end), length) if end > length => Err(bad("the file is cut off")),
        _ => Ok(()),
    }
}

/// Returns the end of the last segment of a little-endian 64-bit ELF file; `None` for any other
/// file, which the dynamic linker rejects.
fn segments_end(file: &File) -> io::Result<Option<u64>> {
    /// The size of `Elf64_Ehdr`, with `e_phoff`, `e_phentsize` and `e_phnum`.
    const HEADER: usize = 64;
    /// The size of `Elf64_Phdr`.
    const SEGMENT: usize = 56;

    let mut header = [0; HEADER];
    if file.metadata()?.len() < HEADER as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut header, 0)?;
    let (&offset, &size, &count) = match (
        header[32..].first_chunk::<8>(),
        header[54..].first_chunk::<2>(),
        header[56..].first_chunk::<2>(),
    ) {
        (Some(offset), Some(size), Some(count)) => (offset, size, count),
        _ => return Ok(None),
    };
    let offset = u64::from_le_bytes(offset);
    let size = u64::from(u16::from_le_bytes(size));
    if !header.starts_with(b"\x7fELF\x02\x01") || size < SEGMENT as u64 {
        return Ok(None);
    }
    let mut end = 0;
    for index in 0..u64::from(u16::from_le_bytes(count)) {
        let at = offset.saturating_add(index * size);
        let mut segment = [0; SEGMENT];
        match file.read_exact_at(&mut segment, at) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(u64::MAX)),
            Err(e) => return Err(e),
        }
        let field = |at: usize| {
            let bytes = segment.get(at..).and_then(|rest| rest.first_chunk());
            u64::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        // `p_offset` and `p_filesz`.
        end = end.max(field(8).saturating_add(field(32)));
    }
    Ok(Some(end))
}

/// Copies the kernel out of the library at `path`.
#[allow(unsafe_code)]
pub(super) fn kernel_of(path: &Path) -> Result<KernelImage, VmmError> {
    let bad = |error: libloading::Error| VmmError::BadKernel {
        path: path.to_owned(),
        // The message of the dynamic linker is the error's cause.
        reason: std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string),
    };
    check_whole(path)?;
    // SAFETY: loading a library runs its initialisers. libkrunfw is plain data with three accessor
    // functions and has none; the path comes from the user or a folder only the administrator
    // writes to, as for any shared library.
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
    // SAFETY: the library owns `size` readable bytes at `start` for as long as it is loaded, which
    // `library` ensures until the copy is made.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) }.to_vec();
    Ok(KernelImage {
        load_address,
        entry,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an ELF header with one segment of 1000 bytes at offset 100.
    fn library() -> Vec<u8> {
        let mut bytes = vec![0; 1100];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64 + 8] = 100;
        bytes[64 + 32..64 + 34].copy_from_slice(&1000_u16.to_le_bytes());
        bytes
    }

    #[test]
    fn a_truncated_library_is_rejected_before_it_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LIBRARY);
        let library = library();
        std::fs::write(&path, &library).unwrap();
        assert!(check_whole(&path).is_ok());
        for length in [64, 100, 119, 120, 500, 1099] {
            std::fs::write(&path, &library[..length]).unwrap();
            let error = check_whole(&path).unwrap_err().to_string();
            assert!(error.contains("cut off"), "{length}: {error}");
        }
        // The dynamic linker rejects files that are not libraries.
        for length in [0, 1, 63] {
            std::fs::write(&path, &library[..length]).unwrap();
            assert!(check_whole(&path).is_ok(), "{length}");
        }
    }
}
