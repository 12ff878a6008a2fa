//! Finds the file that an output replaces, through symbolic links.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the directory of `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns the file that `path` names, whether it exists or not. If `path` is a symbolic link,
/// returns its target.
///
/// # Errors
///
/// Those of the system, also if a link has no target; and if there is something other than a
/// regular file, because an output must not replace a device or a pipe.
pub fn target(path: &Path) -> io::Result<PathBuf> {
    let target = match path.is_symlink() {
        true => fs::canonicalize(path)?,
        false => path.to_owned(),
    };
    if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        let problem = "not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    Ok(target)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_existing_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/file"), "").unwrap();
        symlink("d/file", at("relative")).unwrap();
        symlink(at("relative"), at("absolute")).unwrap();
        symlink("d/none", at("dangling")).unwrap();
        symlink("circle", at("circle")).unwrap();
        let file = at("d/file").canonicalize().unwrap();
        assert_eq!(target(&at("absolute")).unwrap(), file);
        assert_eq!(target(&at("new")).unwrap(), at("new"));
        let error = target(&at("dangling")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(target(&at("circle")).is_err());
        symlink("/dev/null", at("device")).unwrap();
        for refused in ["device", "d"] {
            let error = target(&at(refused)).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file");
        }
    }
}
