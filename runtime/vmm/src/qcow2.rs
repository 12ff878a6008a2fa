//! The references of a qcow2 image to other files (QEMU's `docs/interop/qcow2.txt`).

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::VmmError;

/// `QFI\xfb`
const MAGIC: [u8; 4] = [b'Q', b'F', b'I', 0xfb];

/// The longest name of a backing file, in bytes.
const MAX_NAME: u32 = 1023;

/// The longest chain of backing files.
const MAX_CHAIN: usize = 64;

/// The incompatible feature bit of an image whose data is in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// Returns whether the file begins with the magic number of qcow2.
///
/// # Errors
///
/// If it cannot be read.
pub fn is_qcow2(path: &Path) -> Result<bool, VmmError> {
    let mut magic = [0; 4];
    let file = open(path)?;
    Ok(file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC)
}

/// Returns the backing files of the image at `path`, the nearest first.
///
/// # Errors
///
/// [`VmmError::BackingFile`] if an image names something other than a file, or the chain is too
/// long; if a file cannot be read.
pub fn backing_files(path: &Path) -> Result<Vec<PathBuf>, VmmError> {
    let mut found: Vec<PathBuf> = Vec::new();
    loop {
        let last = found.last().map_or(path, |last| last);
        if found.len() > MAX_CHAIN {
            return Err(refused(path, "its chain of backing files is too long"));
        }
        // Raw files, and images without a backing file, end the chain.
        if !is_qcow2(last)? {
            return Ok(found);
        }
        match backing_file(last)? {
            Some(next) => found.push(next),
            None => return Ok(found),
        }
    }
}

fn backing_file(path: &Path) -> Result<Option<PathBuf>, VmmError> {
    let file = open(path)?;
    let failed = || VmmError::io(format!("cannot read {}", path.display()));
    let mut header = [0; 80];
    file.read_exact_at(&mut header[..72], 0).map_err(failed())?;
    // Version 2 has no feature bits.
    let _ = file.read_exact_at(&mut header[72..], 72);
    let [
        _,
        _,
        _,
        _,
        v0,
        v1,
        v2,
        v3,
        o0,
        o1,
        o2,
        o3,
        o4,
        o5,
        o6,
        o7,
        s0,
        s1,
        s2,
        s3,
        ..,
    ] = header;
    let version = u32::from_be_bytes([v0, v1, v2, v3]);
    let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    let mut features = [0; 8];
    features.copy_from_slice(&header[72..]);
    if version >= 3 && u64::from_be_bytes(features) & EXTERNAL_DATA != 0 {
        return Err(refused(path, "its data is in another file"));
    }
    if offset == 0 || size == 0 {
        return Ok(None);
    }
    if size > MAX_NAME {
        return Err(refused(path, "the name of its backing file is too long"));
    }
    let mut name = vec![0; size as usize];
    file.read_exact_at(&mut name, offset).map_err(failed())?;
    // QEMU does not interpret `nbd://…` and `json:{…}` as file names.
    let word = name.split(|&byte| byte == b'/').next().unwrap_or_default();
    if word.contains(&b':') || name.contains(&0) {
        return Err(refused(path, "the name of its backing file is not a path"));
    }
    let name = Path::new(std::ffi::OsStr::from_bytes(&name));
    Ok(Some(path.parent().unwrap_or(Path::new("")).join(name)))
}

fn open(path: &Path) -> Result<File, VmmError> {
    File::open(path).map_err(VmmError::io(format!("cannot read {}", path.display())))
}

fn refused(path: &Path, reason: &'static str) -> VmmError {
    VmmError::BackingFile {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;

    use super::*;

    fn image(folder: &Path, name: &str, backing: &[u8]) -> PathBuf {
        let mut bytes = vec![0; 104];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[7] = 3;
        bytes[15] = 104;
        bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        bytes.extend(backing);
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_chain_of_backing_files_is_followed_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::write(at.join("raw"), "raw").unwrap();
        image(at, "middle", b"./raw");
        let top = image(at, "top", at.join("middle").as_os_str().as_bytes());
        let found = backing_files(&top).unwrap();
        assert_eq!(found, [at.join("middle"), at.join("raw")]);
        assert!(backing_files(&at.join("raw")).unwrap().is_empty());
        assert!(backing_files(&image(at, "alone", b"")).unwrap().is_empty());
        let refused = backing_files(&image(at, "loop", b"loop"));
        assert!(matches!(refused, Err(VmmError::BackingFile { .. })));
        assert!(backing_files(&image(at, "lost", b"missing")).is_err());
    }

    #[test]
    fn backing_names_that_are_not_files_and_external_data_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["nbd://host/x", "json:{}", "file:/etc/passwd", "a\0b"] {
            let refused = backing_files(&image(folder.path(), "image", name.as_bytes()));
            assert!(
                matches!(refused, Err(VmmError::BackingFile { .. })),
                "{name}"
            );
        }
        let path = image(folder.path(), "image", b"");
        let mut bytes = fs::read(&path).unwrap();
        bytes[79] = 4;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(
            backing_files(&path),
            Err(VmmError::BackingFile { .. })
        ));
        for end in 0..bytes.len() {
            fs::write(&path, &bytes[..end]).unwrap();
            // Any result is fine, but the call must return.
            let _ = backing_files(&path);
        }
    }
}
